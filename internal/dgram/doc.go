// Package dgram sends datagrams to backends and receives their answers. Each UDP
// session has one connected [Socket], which an [Engine] opens and which passes
// what it receives to the session's [Sink].
//
// There are two engines. [Goroutines] works on any system and uses one goroutine
// per socket. On Linux, [NewEngine] returns one that serves all sockets from a
// few event loops. It also keeps the sockets of ended sessions for new sessions.
package dgram
