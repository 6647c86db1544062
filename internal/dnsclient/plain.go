package dnsclient

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// resendAfter is how long a query over UDP may be unanswered before it is sent again.
const resendAfter = time.Second

// plainServer is a server on UDP and TCP.
type plainServer struct {
	addr string // host:port
	tcp  bool   // on TCP only
}

func (s plainServer) String() string { return s.addr }
func (s plainServer) close()         {}

// exchange queries the server over UDP, and over TCP if the answer is truncated.
func (s plainServer) exchange(ctx context.Context, query []byte) (reply, error) {
	if !s.tcp {
		msg, err := s.overUDP(ctx, query)
		if err != nil || msg[2]&truncatedBit == 0 {
			return reply{msg: msg, server: s.addr}, err
		}
	}
	msg, err := s.overTCP(ctx, query)
	return reply{msg: msg, server: s.addr}, err
}

func (s plainServer) overUDP(ctx context.Context, query []byte) ([]byte, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", s.addr)
	if err != nil {
		return nil, err
	}
	defer closeWith(ctx, c)()
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Write(query); err != nil {
			return nil, cause(ctx, err)
		}
		_ = c.SetReadDeadline(time.Now().Add(resendAfter))
		for {
			n, err := c.Read(buf)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
				break // send again
			}
			if err != nil {
				return nil, cause(ctx, err)
			}
			if answers(buf[:n], query) {
				return buf[:n], nil
			}
		}
	}
}

func (s plainServer) overTCP(ctx context.Context, query []byte) ([]byte, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer closeWith(ctx, c)()
	msg, err := exchangeOn(c, query)
	return msg, cause(ctx, err)
}

var errForeignReply = errors.New("the server sent a reply to another query")

// exchangeOn sends a query on a stream and reads the reply.
func exchangeOn(c io.ReadWriter, query []byte) ([]byte, error) {
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, len(query)+2), uint16(len(query))), query...)
	if _, err := c.Write(framed); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, msg); err != nil {
		return nil, err
	}
	if !answers(msg, query) {
		return nil, errForeignReply
	}
	return msg, nil
}

// closeWith closes c when ctx ends. The returned function closes it at once.
func closeWith(ctx context.Context, c io.Closer) func() {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	return func() {
		stop()
		_ = c.Close()
	}
}

// cause returns the cause of the end of ctx if it has ended, which is then why a
// connection was closed, or else err.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
