// Package dnsclient queries DNS: addresses and SRV targets, with the lifetime of
// the records. It caches nothing.
//
// Go's own resolver has the rules: the hosts file, nsswitch.conf, the search list,
// ndots and the sorting of addresses (RFC 6724). This package gives it connections
// on which the queries are carried elsewhere, and reads the TTLs of the replies
// that pass:
//
//	Client.Addrs --> net.Resolver --> conn --> exchange --> the server that Go has
//	                                                        chosen (resolv.conf), or
//	                                                        the first of Config.Servers
//	                                                        that answers
//
// On systems where Go calls the C library or the system's API instead (macOS,
// Windows, some nsswitch.conf), no reply passes here and the TTL is unknown.
package dnsclient
