// Package resolver is a DNS cache for programs that connect to few names again and again.
//
// A name that is in use is answered from memory, without a query and without waiting. The cache
// asks again in the background before an answer gets old, and where DNS fails it goes on with the
// last good answer. A failed connection is a reason to ask anew at once; that is what
// [Cache.Refresh] is for.
//
//	cache := resolver.New(resolver.Config{TTL: time.Hour})
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
//	        first answer          TTL over, Refresh or Flush
//	(none) --------------> fresh ----------------------------> stale
//	                         ^                                   |
//	                         +-----------------------------------+
//	                              the next good answer
//
// Fresh entries are answered at once. Stale ones are asked for anew, and serve when the new answer
// is late or does not come. A failed lookup never removes addresses. Names that are neither used
// nor held ([Cache.Hold]) for two TTLs are forgotten, and the cache never holds more than 10,000
// names besides the held ones.
//
// The TTL of the DNS records themselves is not looked at: the life of an entry is [Config.TTL].
package resolver
