package dnsclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// exchangeFunc sends a query and returns the reply to it. Both are DNS messages. It
// returns when ctx ends.
type exchangeFunc func(ctx context.Context, query []byte) (reply, error)

// reply is the reply of a server.
type reply struct {
	msg    []byte
	server string
	age    uint32 // seconds for which an HTTP cache has held it
}

// conn is the connection of Go's resolver for one exchange. Messages have two bytes
// of length, as over TCP, because it is no net.PacketConn. Large answers therefore
// fit into it. It is used by one goroutine.
type conn struct {
	lookup   *lookup
	ctx      context.Context
	exchange exchangeFunc
	unread   bytes.Reader
}

var errFraming = errors.New("the query is not one message with its length")

// Write makes the exchange with the query b.
func (c *conn) Write(b []byte) (int, error) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return 0, errFraming
	}
	answer, err := c.lookup.ask(c.ctx, b[2:], c.exchange)
	if err != nil {
		return 0, err
	}
	c.unread.Reset(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return len(b), nil
}

// Read reads the answer.
func (c *conn) Read(b []byte) (int, error) { return c.unread.Read(b) }

// The other methods of a net.Conn do nothing: Write ends with its context.

func (c *conn) Close() error                     { return nil }
func (c *conn) LocalAddr() net.Addr              { return nil }
func (c *conn) RemoteAddr() net.Addr             { return nil }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

var errQuery = errors.New("the query is not one question")

const headerLen = 12

// questionBytes returns the part of a query after the header that holds its one
// question.
func questionBytes(query []byte) ([]byte, error) {
	if len(query) < headerLen || binary.BigEndian.Uint16(query[4:]) != 1 {
		return nil, errQuery
	}
	_, end, err := dns.UnpackDomainName(query, headerLen)
	if err != nil || end+4 > len(query) {
		return nil, errQuery
	}
	return query[headerLen : end+4], nil
}

// questionOf returns the question of a query.
func questionOf(query []byte) (question, error) {
	b, err := questionBytes(query)
	if err != nil {
		return question{}, err
	}
	name, _, err := dns.UnpackDomainName(query, headerLen)
	if err != nil {
		return question{}, err
	}
	return question{strings.ToLower(name), binary.BigEndian.Uint16(b[len(b)-4:])}, nil
}

// answers reports whether a message is a reply to a query: it has the same ID and
// the same question. Others are late replies to earlier queries, or forged.
func answers(msg, query []byte) bool {
	asked, err := questionBytes(query)
	if err != nil || len(msg) < headerLen+len(asked) {
		return false
	}
	return bytes.Equal(msg[:2], query[:2]) && msg[2]&responseBit != 0 && bytes.EqualFold(msg[headerLen:headerLen+len(asked)], asked)
}

// Bits of the third and fourth byte of a message.
const (
	responseBit  = 0x80
	truncatedBit = 0x02
	recursionBit = 0x80 // recursion available
	rcodeMask    = 0x0f
)

// emptyAnswer returns a reply to a query that says that there are no records of its
// type.
func emptyAnswer(query []byte) []byte {
	b, err := questionBytes(query)
	if err != nil {
		return nil
	}
	msg := bytes.Clone(query[:headerLen+len(b)])
	msg[2] |= responseBit
	msg[3] = recursionBit // without it, Go's resolver takes the reply for a referral
	clear(msg[6:headerLen])
	return msg
}

// noSuchName returns a reply to a query that says that the name does not exist.
func noSuchName(query []byte) []byte {
	msg := emptyAnswer(query)
	msg[3] |= dns.RcodeNameError
	return msg
}

// rcodeOf returns the reply code of a message.
func rcodeOf(msg []byte) int { return int(msg[3] & rcodeMask) }
