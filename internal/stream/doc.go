// Package stream moves bytes between a client and its backend over TCP, and
// decides how their relay ends. It knows nothing of services and strikes: those
// rules stand behind [Rules], which package handler implements.
//
// Two movers do the work. [NewMover] uses two goroutines and works over any
// net.Conn on any system. The movers of an [Engine] work between plain sockets on
// a few event loops; the engine exists on Linux. Both follow one table of ends,
// the type ends:
//
//	end of a TCP relay              the peer sees
//	one side finished sending       FIN; the other direction continues
//	one side was reset before       all that it had sent, then RST
//	  it finished
//	one side was reset after        all that it had sent, then FIN; what the peer
//	  it finished                   still sends is discarded, until it finishes or
//	                                the relay is idle
//	idle timeout                    FIN; RST if bytes for it are left
//	cut, or the client is refused   RST
//
// A reset of one side is noticed by an error of its socket. What it had sent
// before may still be in its receive queue, so it is read to its end first. The
// RST is sent once the peer has acknowledged everything, because a RST makes the
// kernel drop what is in the send queue.
package stream
