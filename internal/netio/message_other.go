//go:build !linux

package netio

import (
	"errors"
	"net"
	"os"
)

// MaxFiles is the most descriptors that one message carries.
const MaxFiles = 1

// MessagePair is not supported: processes pass sockets on Linux only.
func MessagePair() (near *net.UnixConn, far *os.File, err error) {
	return nil, nil, errors.ErrUnsupported
}

// MessageConn is not supported.
func MessageConn(*os.File) (*net.UnixConn, error) { return nil, errors.ErrUnsupported }

// SendMessage is not supported.
func SendMessage(*net.UnixConn, []byte, ...*os.File) error { return errors.ErrUnsupported }

// ReceiveMessage is not supported.
func ReceiveMessage(*net.UnixConn, []byte) (n int, files []*os.File, err error) {
	return 0, nil, errors.ErrUnsupported
}

// DuplicateFile is not supported.
func DuplicateFile(uintptr) (*os.File, error) { return nil, errors.ErrUnsupported }
