// Package handler is the data path: it walks a client through the queue of
// package upstream until a backend serves it, and then carries bytes or
// datagrams both ways until one of the ends in the table below. It knows
// sockets and names, and nothing of Caddy.
//
//	Service  what outlives a change of settings: the queue, the UDP sessions, the counters
//	Relay    a service with one configuration's settings: what clients are handed to
//
// A TCP client is a call of [Relay.ServeTCP], which returns when its relay is
// over. A UDP client is a session, made by the first datagram given to
// [Relay.Deliver] and living on its own until nothing has passed for the idle
// timeout; where its datagrams come from and how answers get back is behind
// [Replier], and what its backend socket is made of behind package dgram's
// Engine.
//
// How a TCP relay ends, and what the peers see:
//
//	one side finished sending   FIN on the other; the other direction goes on
//	one side reset              RST on the other, never a FIN that fakes a whole transfer
//	idle timeout                FIN on both
//	client refused              RST
package handler
