// Package takeover moves the listening sockets of a process to a new one without
// losing a client or a datagram. It has the conversation of the two processes
// ([Give], [Receive] and [Offer.Take]) and the [Link] that carries the datagrams of
// old UDP sessions. It knows nothing of Caddy, and of sockets only what [Giver] and
// [Taker] say.
//
// # Data flow
//
// Both processes have descriptors of one kernel socket per address, so its queue of
// clients and datagrams outlives the change of its reader:
//
//	before                during the start of new      after
//
//	socket ──▶ old        socket ──▶ old               socket ──────────▶ new
//	                             (new has it too,        TCP clients        │ datagrams of clients
//	                              and does not read)     of old stay    link│ that old has
//	                                                     with old           ▼
//	                                                                       old
//
// TCP needs no more than that. UDP clients of the old process have no connection in the
// kernel, so the new process reads their datagrams and passes them on. It knows their
// keys. No client is added to them, and each leaves when it ends in the old process.
// Answers go directly from the old process to the socket, so they have the same source
// address. The datagrams of a client stay in order: the old process reads until it stops,
// the new process reads from there, and a link keeps the order.
//
// A link goes to each old process that still has clients. When the new process is
// replaced itself, the next one gets its links too, so datagrams never pass through more
// than one other process.
//
// The rejected alternatives: a connected socket for each session, to which the kernel
// would bring the datagrams, needs a descriptor for each and gets datagrams of other
// clients between bind and connect. If the old process kept reading, new clients would
// depend on it until it ends.
//
// # Conversation
//
//	old                                                new
//	 │ starts it with one end of a socket pair          │
//	 │── hello, sockets (descriptors) ─────────────────▶│ loads its config, listens on the sockets,
//	 │                                                  │ reads none of them
//	 │◀── ready, or failed with a reason ───────────────│
//	 │ stops reading; stops the links to older processes│
//	 │── links (descriptors), keys, go ────────────────▶│ reads
//	 │◀── taken ────────────────────────────────────────│
//	 │ starts the link to new, closes its listeners     │
//
// # Failures
//
//	when                         what                          then
//	before ready                 new exits, fails, is slow     old continues, and ends new
//	before ready                 another config in old         the sockets differ at ready: old continues, and ends new
//	at ready                     new does not listen on a      new reports it: old continues
//	                             socket that has a listener
//	before go                    a goroutine of old does not   old continues, and ends new
//	                             stop in time
//	any time before taken        new does not read             the same as if it were slow: no send waits longer than the step
//	before taken                 new exits, is slow            old ends new and reads again, all of its descriptors are open
//	before taken                 old is killed                 new reads all sockets: it is the only one that can
//	after taken                  new exits                     old ends its UDP clients, so that the ports can be bound again
//	after taken                  old exits                     new takes the datagrams of its clients as new clients
//	after taken                  old is slow                   4 MiB wait in the link, more are dropped and counted
//	a client ends in old while   datagrams on the link         old sends them back, and new takes them
package takeover
