package dial

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// One address that fails by the backend's fault decides, in whatever order the
// addresses fail; exhaustion outranks an address that cannot be reached.
func TestErrorClass(t *testing.T) {
	remote, local, exhausted := error(syscall.ECONNREFUSED), error(syscall.ENETUNREACH), error(syscall.EMFILE)
	for _, test := range []struct {
		errs []error
		want netio.Class
	}{
		{[]error{remote}, netio.Remote},
		{[]error{local}, netio.Local},
		{[]error{exhausted}, netio.Exhausted},
		{[]error{local, local}, netio.Local},
		{[]error{remote, local}, netio.Remote},
		{[]error{remote, exhausted}, netio.Remote},
		{[]error{local, exhausted}, netio.Exhausted},
		{[]error{remote, local, exhausted}, netio.Remote},
	} {
		for range 2 {
			failed := new(Error)
			for _, err := range test.errs {
				failed.Add(err)
			}
			if got := Class(fmt.Errorf("backend a: %w", failed)); got != test.want {
				t.Errorf("%v: class %d, want %d", failed, got, test.want)
			}
			if !errors.Is(failed, test.errs[0]) {
				t.Errorf("%v does not wrap its causes", failed)
			}
			slices.Reverse(test.errs)
		}
	}
}

func TestClassWithoutError(t *testing.T) {
	if got := Class(syscall.EMFILE); got != netio.Exhausted {
		t.Errorf("a bare errno has class %d", got)
	}
}
