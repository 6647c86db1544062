// Package hook runs an operator's command when something happens to a backend:
// [Runner.Run] takes an [Event] and returns at once, and the command finds the
// event in its environment.
//
// There is no shell between. The command runs in a process group of its own,
// with the relay's environment and no input, and is over when it has exited and
// nobody holds its output any more. What it leaves in the background with its
// output elsewhere runs on, unless the timeout or [Runner.Close] comes first:
// these end the whole group.
//
// Commands of one service run one after the other, in the order of their
// events; commands of several services run side by side, a few at once, and a
// bounded number of events waits behind them.
//
// It knows nothing of relays.
package hook
