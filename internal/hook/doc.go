// Package hook runs an operator's command when something happens to a backend.
// [Runner.Run] takes an [Event] and returns at once. The command finds the event
// in its environment.
//
// The command is run without a shell, in a process group of its own, with the
// relay's environment and no input. It has ended once its process has exited and
// no process holds its output open. Background processes that redirect their
// output are left running, unless the timeout or [Runner.Close] comes before the
// command has ended: these end the whole process group.
//
// The commands of one service run one after the other, in the order of their
// events. The commands of several services run in parallel, up to
// [Limits.Running]. Up to [Limits.Waiting] events wait in a queue.
//
// The package knows nothing of relays. It promises no API to other modules.
package hook
