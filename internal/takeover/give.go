package takeover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// protocol is the version of the conversation. Programs of different versions cannot
// replace each other.
const protocol = 1

// Hello is what the old process tells the new one about itself.
type Hello struct {
	Protocol int
	PID      int
	PIDFile  string // that the new process writes once it has taken the sockets; "": none
}

// Socket is a listening socket that moves to the new process.
type Socket struct {
	Network   string // "tcp" or "udp"
	At        netip.AddrPort
	Listening bool     // a listener uses it; else it is open only for its UDP clients
	File      *os.File `json:"-"`
}

// Giver is the process that gives its sockets away. Its methods are called in this
// order.
type Giver interface {
	Handler // of the link to the new process, once that has taken the sockets

	// Shared returns duplicates of the open sockets. The caller closes their files.
	Shared() ([]Socket, error)
	// Suspend stops taking clients and datagrams, and waits until that has stopped.
	Suspend(ctx context.Context) error
	// State returns what the new process should know, in a form of its own.
	State() []byte
	// HandOver returns the UDP clients of this process, and reports their ends on link
	// from now on.
	HandOver(link *Link) []Key
	// Elsewhere returns the UDP clients of older processes.
	Elsewhere() map[*Link][]Key
	// HandedOver is called when the new process has taken the sockets. It forgets the
	// clients of older processes and closes the links to them.
	HandedOver()
	// Resume ends Suspend and HandOver, because the new process has failed.
	Resume()
}

// Timeouts bounds the steps of [Give].
type Timeouts struct {
	Ready time.Duration // for the new process to load its config
	Step  time.Duration // for each of the other steps
}

// abortTimeout is how long an other process that reads nothing is waited for, to tell
// it that this one has given up.
const abortTimeout = 100 * time.Millisecond

// Give gives the sockets of g to the process at the other end of c. If it returns an
// error, g works as before, and the caller ends the other process. kill ends that
// process and waits for its end. Give calls it where a process that is only slow could
// take clients although this one continues.
func Give(c *Conn, hello Hello, g Giver, limits Timeouts, kill func()) (err error) {
	defer func() {
		if err == nil {
			return
		}
		c.sendUntil(time.Now().Add(abortTimeout))
		if c.send(kindAbort, err.Error()) != nil { // it would take the end of c for that of this process
			kill()
		}
	}()
	c.sendUntil(time.Now().Add(limits.Ready))
	offered, err := c.offer(hello, g)
	if err != nil {
		return err
	}
	m, err := c.receive(time.Now().Add(limits.Ready))
	switch {
	case errors.Is(err, errEnded):
		return errors.New("the new process exited before it was ready; its output is where this process has its own")
	case err != nil:
		return fmt.Errorf("new process is not ready: %w", err)
	case m.kind == kindFailed:
		return fmt.Errorf("new process failed: %w", m.reason())
	case m.kind != kindReady:
		return m.errUnexpected()
	}
	return c.commit(g, offered, limits.Step, kill)
}

// offer sends the sockets and returns them without their files.
func (c *Conn) offer(hello Hello, g Giver) (offered []Socket, err error) {
	hello.Protocol = protocol
	sockets, err := g.Shared()
	if err != nil {
		return nil, err
	}
	defer closeAll(sockets)
	if err := c.send(kindHello, hello); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(sockets, netio.MaxFiles) {
		var files []*os.File
		for _, socket := range chunk {
			files = append(files, socket.File)
		}
		if err := c.send(kindSockets, chunk, files...); err != nil {
			return nil, err
		}
	}
	return withoutFiles(sockets), c.send(kindOffered, nil)
}

// commit gives the sockets to a new process that is ready.
func (c *Conn) commit(g Giver, offered []Socket, limit time.Duration, kill func()) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := g.Suspend(ctx); err != nil {
		return err
	}
	var link *Link
	var stopped []*Link // to older processes
	begun := false      // the new process may take clients
	defer func() {
		if err == nil {
			return
		}
		if begun {
			kill()
		}
		g.Resume()
		for _, l := range stopped {
			l.Start(g)
		}
		if link != nil {
			link.Close()
		}
	}()
	now, err := g.Shared()
	if err != nil {
		return err
	}
	closeAll(now)
	if !equal(withoutFiles(now), offered) {
		return errors.New("this process got another config meanwhile: try again")
	}
	near, far, err := netio.MessagePair()
	if err != nil {
		return err
	}
	defer far.Close()
	link = NewLink(near)
	for l := range g.Elsewhere() {
		stopped = append(stopped, l)
		if err := l.Stop(limit); err != nil {
			return err
		}
	}
	c.sendUntil(time.Now().Add(limit))
	if err := c.sendState(g.State()); err != nil {
		return err
	}
	if err := c.sendLink(far, g.HandOver(link)); err != nil {
		return err
	}
	for l, keys := range g.Elsewhere() { // some may have ended while their links were running
		file, err := l.File()
		if err != nil {
			return err
		}
		err = c.sendLink(file, keys)
		_ = file.Close()
		if err != nil {
			return err
		}
	}
	if err := c.send(kindGo, nil); err != nil {
		return err
	}
	switch m, err := c.receive(time.Now().Add(limit)); {
	case err != nil:
		begun = true
		return fmt.Errorf("new process has not taken over: %w", err)
	case m.kind == kindFailed:
		return fmt.Errorf("new process has not taken over: %w", m.reason())
	case m.kind != kindTaken:
		begun = true
		return m.errUnexpected()
	}
	link.Start(g)
	g.HandedOver()
	return nil
}

func (c *Conn) sendState(state []byte) error {
	for chunk := range slices.Chunk(state, maxBody) {
		if err := c.send(kindState, chunk); err != nil {
			return err
		}
	}
	return nil
}

// sendLink sends a link and the keys of its clients.
func (c *Conn) sendLink(file *os.File, keys []Key) error {
	if err := c.send(kindLink, nil, file); err != nil {
		return err
	}
	for chunk := range slices.Chunk(keys, maxBody/(maxRecord-0xffff)) {
		if err := c.send(kindKeys, appendKeys(chunk)); err != nil {
			return err
		}
	}
	return nil
}

func closeAll(sockets []Socket) {
	for _, socket := range sockets {
		_ = socket.File.Close()
	}
}

// withoutFiles returns the sockets without their files, sorted.
func withoutFiles(sockets []Socket) []Socket {
	sockets = slices.Clone(sockets)
	for i := range sockets {
		sockets[i].File = nil
	}
	slices.SortFunc(sockets, func(a, b Socket) int {
		return cmp.Or(strings.Compare(a.Network, b.Network), a.At.Compare(b.At))
	})
	return sockets
}

// equal reports whether the listening sockets are the same. Others close when their
// clients end.
func equal(one, other []Socket) bool {
	closed := func(s Socket) bool { return !s.Listening }
	return slices.Equal(slices.DeleteFunc(slices.Clone(one), closed), slices.DeleteFunc(slices.Clone(other), closed))
}
