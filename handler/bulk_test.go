package handler

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// Tens of megabytes both ways at once, in pieces of any size, arrive as they
// were sent and are counted to the byte.
func TestBulkBothWays(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	for _, test := range []struct {
		name   string
		client func(*net.TCPConn) Client
	}{
		{"plain sockets", plain},
		{"wrapped client", func(conn *net.TCPConn) Client {
			return Client{Conn: wrapped{conn}, CloseWrite: conn.CloseWrite, Socket: conn}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()})
			client, far := tcpPair(t)
			done := r.serve(context.Background(), test.client(far))
			backend := receiveFrom(t, "a connection", conns)

			type transfer struct {
				sent, received [sha256.Size]byte
				err            error
			}
			carry := func(from, to *net.TCPConn, size int64) <-chan transfer {
				over := make(chan transfer)
				go func() {
					var x transfer
					sent := make(chan error)
					go func() {
						var err error
						x.sent, err = sendRandom(from, size)
						sent <- errors.Join(err, from.CloseWrite())
					}()
					var n int64
					x.received, n, x.err = receiveRandom(to)
					x.err = errors.Join(x.err, <-sent)
					if n != size {
						x.err = errors.Join(x.err, io.ErrShortWrite)
					}
					over <- x
				}()
				return over
			}
			up, down := carry(client, backend, size), carry(backend, client, size+12345)
			for name, over := range map[string]<-chan transfer{"up": up, "down": down} {
				if x := <-over; x.err != nil || x.sent != x.received {
					t.Errorf("the way %s: %v, the same bytes: %v", name, x.err, x.sent == x.received)
				}
			}
			receiveFrom(t, "the end", done)
			fields := r.line("relay ended").ContextMap()
			if fields["bytes_up"] != size || fields["bytes_down"] != size+12345 {
				t.Errorf("counted %v", fields)
			}
		})
	}
}

// chunk is a random length: a few bytes as often as a lot.
func chunk() int { return 1 + rand.IntN(1<<rand.IntN(19)) }

func sendRandom(to io.Writer, size int64) (sum [sha256.Size]byte, err error) {
	source, digest := rand.NewChaCha8([32]byte{byte(size)}), sha256.New()
	buf := make([]byte, 1<<19)
	for size > 0 && err == nil {
		piece := buf[:min(int64(chunk()), size)]
		_, _ = source.Read(piece)
		digest.Write(piece)
		_, err = to.Write(piece)
		size -= int64(len(piece))
	}
	return sumOf(digest), err
}

func receiveRandom(from io.Reader) (sum [sha256.Size]byte, total int64, err error) {
	digest := sha256.New()
	buf := make([]byte, 1<<19)
	for {
		n, err := from.Read(buf[:chunk()])
		digest.Write(buf[:n])
		total += int64(n)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return sumOf(digest), total, err
		}
	}
}

func sumOf(digest hash.Hash) (sum [sha256.Size]byte) {
	digest.Sum(sum[:0])
	return sum
}
