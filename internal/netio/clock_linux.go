package netio

import "golang.org/x/sys/unix"

// The state and the status bit of adjtimex(2) that tell that no time service keeps
// the clock.
const (
	timeError = 5  // TIME_ERROR
	staUnsync = 64 // STA_UNSYNC
)

// ClockSynchronized reports whether a time service keeps the clock of this machine.
// known is false if the system does not tell.
func ClockSynchronized() (synchronized, known bool) {
	var t unix.Timex // its zero changes nothing
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, false
	}
	return state != timeError && t.Status&staUnsync == 0, true
}
