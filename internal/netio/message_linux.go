package netio

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// MaxFiles is the most descriptors that one message carries (SCM_MAX_FD of Linux).
const MaxFiles = 253

// MessagePair returns two connected sockets of the type SOCK_SEQPACKET: each read
// returns one message. far is for another process. Both are close-on-exec.
func MessagePair() (near *net.UnixConn, far *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	far = os.NewFile(uintptr(fds[1]), "far end")
	nearFile := os.NewFile(uintptr(fds[0]), "near end")
	defer nearFile.Close()
	if near, err = MessageConn(nearFile); err != nil {
		_ = far.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// MessageConn returns the connection of a socket of [MessagePair]. The caller
// closes file too.
func MessageConn(file *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(file) // duplicates the descriptor
	if err != nil {
		return nil, err
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is no unix socket", file.Name())
	}
	return unix, nil
}

// SendMessage sends a message, which must not be empty, with the descriptors of
// files, at most [MaxFiles]. The receiver gets duplicates. It waits while the
// socket's buffer is full.
func SendMessage(conn *net.UnixConn, message []byte, files ...*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			raw, err := file.SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) { fds[i] = int(fd) }) // the caller keeps file open
			}
			if err != nil {
				return err
			}
		}
		rights = syscall.UnixRights(fds...)
	}
	_, _, err := conn.WriteMsgUnix(message, rights, nil)
	return err
}

// ReceiveMessage waits for a message and returns its length and the files that came
// with it, which the caller closes. The error is io.EOF once the other end is closed.
// A message that does not fit into buf is an error.
func ReceiveMessage(conn *net.UnixConn, buf []byte) (n int, files []*os.File, err error) {
	rights := make([]byte, syscall.CmsgSpace(MaxFiles*4))
	n, used, flags, _, err := conn.ReadMsgUnix(buf, rights)
	if errors.Is(err, syscall.ECONNRESET) {
		// The other end was closed and had messages to read. Linux reports that once, and
		// before the messages that it had sent.
		n, used, flags, _, err = conn.ReadMsgUnix(buf, rights)
	}
	if err != nil {
		return 0, nil, err
	}
	files, err = filesOf(rights[:used])
	if err == nil && flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		err = errors.New("message or its descriptors truncated")
	}
	if err != nil {
		for _, file := range files {
			_ = file.Close()
		}
		return 0, nil, err
	}
	return n, files, nil
}

// filesOf returns the files in the control messages of a message.
func filesOf(control []byte) (files []*os.File, err error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return files, os.NewSyscallError("recvmsg", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// DuplicateFile returns another descriptor of a socket as a file, which the caller
// closes.
func DuplicateFile(fd uintptr) (*os.File, error) {
	other, errno := duplicate(fd)
	if errno != 0 {
		return nil, os.NewSyscallError("fcntl", errno)
	}
	return os.NewFile(uintptr(other), "duplicate"), nil
}
