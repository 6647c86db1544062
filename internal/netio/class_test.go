//go:build unix

package netio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestClassify(t *testing.T) {
	for class, errnos := range map[Class][]syscall.Errno{
		Remote: {
			syscall.ECONNREFUSED, syscall.ETIMEDOUT, syscall.ECONNRESET, syscall.EPIPE,
			syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.EINVAL,
		},
		Local: {
			syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EACCES, syscall.EPERM,
		},
		Exhausted: {syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN},
	} {
		for _, errno := range errnos {
			system := os.NewSyscallError("connect", errno)
			for _, err := range []error{
				errno, system,
				&net.OpError{Op: "dial", Net: "tcp", Err: system},
				fmt.Errorf("backend a: %w", &net.OpError{Op: "dial", Err: system}),
				errors.Join(errors.New("something"), system),
			} {
				if got := Classify(err); got != class {
					t.Errorf("%v is class %d, want %d", err, got, class)
				}
			}
		}
	}
	for _, err := range []error{
		nil, errors.New("unknown"), context.DeadlineExceeded, os.ErrDeadlineExceeded, &net.DNSError{IsNotFound: true},
	} {
		if got := Classify(err); got != Remote {
			t.Errorf("%v is class %d, want Remote", err, got)
		}
	}
}

func TestTooBig(t *testing.T) {
	near, far := udpPair(t)
	_ = far
	_, err := near.Write(make([]byte, 65508))
	if err == nil || !TooBig(err) {
		t.Errorf("%v does not count as too big", err)
	}
	if TooBig(syscall.ECONNREFUSED) || TooBig(nil) {
		t.Error("another error counts as too big")
	}
}
