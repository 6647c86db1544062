package takeover

import (
	"errors"
	"fmt"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Taker is the process that takes the sockets of an older one.
type Taker interface {
	Handler // of the links to older processes

	// Restore receives the result of [Giver.State]. It is called first, and once.
	Restore(state []byte)
	// Follow adds the UDP clients of an older process, whose datagrams go to link.
	Follow(link *Link, keys []Key) error
	// Begin takes clients and datagrams from now on.
	Begin()
}

// Offer is what an old process offers to this one.
type Offer struct {
	Hello
	Sockets []Socket // their files belong to the receiver

	conn *Conn
}

// Receive receives the offer of the old process at the other end of c.
func Receive(c *Conn, limit time.Duration) (*Offer, error) {
	o := &Offer{conn: c}
	deadline := time.Now().Add(limit)
	for {
		m, err := c.receive(deadline)
		if err != nil {
			return nil, err
		}
		switch m.kind {
		case kindHello:
			if err := m.decode(&o.Hello); err != nil {
				return nil, err
			}
			if o.Protocol != protocol {
				return nil, fmt.Errorf("the old process has version %d of the takeover, this one %d: restart instead", o.Protocol, protocol)
			}
		case kindSockets:
			var sockets []Socket
			if err := m.decode(&sockets); err != nil {
				return nil, err
			}
			if len(sockets) != len(m.files) {
				return nil, fmt.Errorf("%d sockets came with %d descriptors: raise the limit of descriptors", len(sockets), len(m.files))
			}
			for i := range sockets {
				sockets[i].File = m.files[i]
			}
			o.Sockets = append(o.Sockets, sockets...)
		case kindOffered:
			return o, nil
		case kindAbort:
			return nil, fmt.Errorf("the old process has given up: %w", m.reason())
		default:
			return nil, m.errUnexpected()
		}
	}
}

// Fail tells the old process why this one cannot replace it.
func (o *Offer) Fail(reason error) { _ = o.conn.send(kindFailed, reason.Error()) }

// Take takes the sockets, once the config of this process listens on all that have a
// listener. If it returns an error, this process must exit, because the old one works
// as before. alone reports that the old process was killed meanwhile. Its clients are
// lost, and this process serves all new ones.
func (o *Offer) Take(t Taker) (alone bool, err error) {
	_ = o.conn.send(kindReady, nil) // if it fails, the old process has ended or given up; receive tells which
	var links []*Link
	var state []byte
	keys := make(map[*Link][]Key)
	for {
		m, err := o.conn.receive(time.Time{}) // the old process has the timeouts
		if errors.Is(err, errEnded) {
			for _, link := range links {
				link.Close()
			}
			t.Begin()
			return true, nil
		}
		if err != nil {
			return false, err
		}
		switch m.kind {
		case kindLink:
			if len(m.files) != 1 {
				return false, m.errUnexpected()
			}
			conn, err := netio.MessageConn(m.files[0])
			_ = m.files[0].Close()
			if err != nil {
				return false, err
			}
			links = append(links, NewLink(conn))
		case kindKeys:
			more, err := parseKeys(m.body)
			if err != nil || len(links) == 0 {
				return false, m.errUnexpected()
			}
			last := links[len(links)-1]
			keys[last] = append(keys[last], more...)
		case kindState:
			state = append(state, m.body...)
		case kindGo:
			t.Restore(state)
			return o.take(t, links, keys)
		case kindAbort:
			return false, fmt.Errorf("the old process has given up: %w", m.reason())
		default:
			return false, m.errUnexpected()
		}
	}
}

// take begins, and tells the old process. See [Offer.Take] for alone.
func (o *Offer) take(t Taker, links []*Link, keys map[*Link][]Key) (alone bool, err error) {
	for _, link := range links {
		if err := t.Follow(link, keys[link]); err != nil {
			o.Fail(err)
			return false, err
		}
	}
	for _, link := range links {
		link.Start(t)
	}
	t.Begin()
	if o.conn.send(kindTaken, nil) == nil {
		return false, nil
	}
	// The old process has given up or was killed.
	if m, err := o.conn.receive(time.Now().Add(abortTimeout)); err == nil && m.kind == kindAbort {
		return false, fmt.Errorf("the old process has given up: %w", m.reason())
	}
	return true, nil
}
