// Package listen holds the listening sockets of the networks relay+tcp/ and
// relay+udp/: one kernel socket per address, shared by all configs that use it.
//
// A config opens a listener with [Sockets.TCP] or [Sockets.UDP] and closes it
// when the config ends. New clients go to the open listener that was opened last.
// A reload opens the new config's listener before it closes the old one, so
// clients in the kernel's queue stay there and no client is refused or reset. The
// socket closes with its last listener, a UDP socket only after its last [Conn]
// has ended too.
//
// The package knows nothing of Caddy and of relays. It promises no API to other
// modules.
package listen
