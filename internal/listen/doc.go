// Package listen has the listening sockets of the networks relay+tcp/ and
// relay+udp/: one kernel socket per address, however many configs use it.
//
// A config opens a listener with [Sockets.TCP] or [Sockets.UDP] and closes it
// when it ends. New clients go to the listener that was opened last and is not
// closed; those waiting in the kernel's queue wait on, so that a reload neither
// refuses nor resets anybody. The socket closes with its last listener, a UDP
// socket also not before its last [Conn].
//
// It knows nothing of Caddy and nothing of relays.
package listen
