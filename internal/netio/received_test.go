package netio

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestReceived(t *testing.T) {
	local := os.NewSyscallError("connect", syscall.ENETUNREACH)
	got := Received(local)
	if Classify(got) != Remote || !errors.Is(got, syscall.ENETUNREACH) || got.Error() != local.Error() {
		t.Errorf("%v of class %d", got, Classify(got))
	}
	for _, err := range []error{os.NewSyscallError("connect", syscall.ECONNREFUSED), os.NewSyscallError("socket", syscall.EMFILE), errors.New("other")} {
		if got := Received(err); got != err {
			t.Errorf("%v was changed", err)
		}
	}
}
