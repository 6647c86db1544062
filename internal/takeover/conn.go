package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Conn is one end of the conversation of two processes.
type Conn struct{ unix *net.UnixConn }

// NewConns returns both ends of a conversation. far is for the new process, which
// gets it as a descriptor.
func NewConns() (near *Conn, far *os.File, err error) {
	unix, far, err := netio.MessagePair()
	if err != nil {
		return nil, nil, err
	}
	return &Conn{unix}, far, nil
}

// ConnOf returns the end of a conversation that this process was started with. It
// closes file.
func ConnOf(file *os.File) (*Conn, error) {
	defer file.Close()
	unix, err := netio.MessageConn(file)
	if err != nil {
		return nil, err
	}
	return &Conn{unix}, nil
}

// Close closes this end.
func (c *Conn) Close() { _ = c.unix.Close() }

// kind is the first byte of a message.
type kind byte

const (
	kindHello   kind = 'h' // Hello
	kindSockets kind = 's' // []Socket, and their files
	kindOffered kind = 'o' // all sockets were sent
	kindReady   kind = 'r' // nothing
	kindFailed  kind = 'f' // a reason, as a string
	kindState   kind = 'x' // a part of the state, in the form of the caller
	kindLink    kind = 'l' // nothing, and the file of a link
	kindKeys    kind = 'k' // keys of clients of the last link, in binary form
	kindGo      kind = 'g' // nothing
	kindTaken   kind = 't' // nothing
	kindAbort   kind = 'a' // a reason, as a string
)

// maxBody bounds a message, which must fit into the buffer of the socket.
const maxBody = 48 << 10

// sendUntil bounds the time of the sends that follow. The other process may read
// nothing, and then the buffer of the socket is full at some time.
func (c *Conn) sendUntil(deadline time.Time) { _ = c.unix.SetWriteDeadline(deadline) }

func (c *Conn) send(k kind, body any, files ...*os.File) error {
	text, binary := body.([]byte)
	if !binary {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	err := netio.SendMessage(c.unix, append([]byte{byte(k)}, text...), files...)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the other process does not read what it is sent")
	}
	return err
}

// message is a received message.
type message struct {
	kind  kind
	body  []byte
	files []*os.File
}

// errEnded means that the other process has ended.
var errEnded = errors.New("the other process has ended")

// receive waits for a message, at most until deadline; zero: without a limit.
func (c *Conn) receive(deadline time.Time) (m message, err error) {
	_ = c.unix.SetReadDeadline(deadline)
	buf := make([]byte, maxBody+1024)
	n, files, err := netio.ReceiveMessage(c.unix, buf)
	switch {
	case errors.Is(err, io.EOF):
		return m, errEnded
	case errors.Is(err, os.ErrDeadlineExceeded):
		return m, errors.New("the other process does not answer in time")
	case err != nil:
		return m, err
	}
	return message{kind(buf[0]), buf[1:n], files}, nil
}

// decode decodes the body of a message.
func (m message) decode(into any) error {
	if err := json.Unmarshal(m.body, into); err != nil {
		return fmt.Errorf("message %q of the other process: %w", string(m.kind), err)
	}
	return nil
}

// reason returns the reason in a message.
func (m message) reason() error {
	var text string
	if err := m.decode(&text); err != nil {
		return err
	}
	return errors.New(text)
}

// errUnexpected returns the error for a message that does not belong here. The two
// programs are too different to understand each other.
func (m message) errUnexpected() error {
	for _, file := range m.files {
		_ = file.Close()
	}
	return fmt.Errorf("unexpected message %q of the other process: the versions are too different, restart instead", string(m.kind))
}
