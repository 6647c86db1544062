// Package resolver is a DNS cache for programs that connect to few names again and again. The
// package is part of caddy-relay and promises no API to other modules.
//
// A name in use is answered from memory, without a query and without waiting. The cache queries DNS
// in the background before an answer expires. If DNS fails, it keeps the last good answer. After a
// failed connection, call [Cache.Refresh] to look the name up at once.
//
//	cache := resolver.New(resolver.Config{Lookup: lookup, Lifetime: resolver.Lifetime{Fixed: time.Hour}})
//	defer cache.Close()
//
//	began := time.Now()
//	answer, err := cache.Lookup(ctx, "example.com", time.Second)
//	if err != nil {
//		return err
//	}
//	conn, err := dial(ctx, answer.Addrs)
//	if err != nil {
//		answer, err = cache.Refresh(ctx, "example.com", began, time.Second)
//		...
//	}
//
// # Life of an entry
//
//	        first answer       lifetime over, Refresh or Flush
//	(none) --------------> fresh ----------------------------> stale
//	                         ^                                   |
//	                         +-----------------------------------+
//	                              the next good answer
//
// Fresh entries are answered at once. Stale entries are queried again. Their addresses are used if
// the new answer is late or does not come. A failed lookup never removes addresses. Names that are
// neither used nor held ([Cache.Hold]) for two lifetimes are removed. The cache holds at most 10,000
// names in addition to the held ones.
//
// The lifetime is fixed, or it is the TTL of the DNS records within bounds ([Lifetime]).
//
// [Targets] follows the SRV records of a name in the same way.
package resolver
