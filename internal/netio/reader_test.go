package netio

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// readers reads a stream by descriptor and through Read.
var readers = map[string]func(*net.TCPConn) *Reader{
	"socket":  func(conn *net.TCPConn) *Reader { return NewReader(conn) },
	"wrapped": func(conn *net.TCPConn) *Reader { return NewReader(struct{ net.Conn }{conn}) },
}

func TestReaderStream(t *testing.T) {
	for name, reader := range readers {
		t.Run(name, func(t *testing.T) {
			near, far := relaytest.TCPPair(t)
			r := reader(far)
			defer r.Release()
			sent := make([]byte, 3<<20)
			_, _ = rand.Read(sent)
			go func() {
				_, _ = near.Write(sent)
				_ = near.CloseWrite()
			}()
			var got bytes.Buffer
			for {
				piece, err := r.Next()
				if err != nil {
					if err != io.EOF {
						t.Fatal(err)
					}
					break
				}
				if len(piece) == 0 || len(piece) > BufferSize {
					t.Fatalf("Next returned %d bytes", len(piece))
				}
				got.Write(piece)
			}
			if !bytes.Equal(got.Bytes(), sent) {
				t.Errorf("%d bytes were read, which differ from what was sent", got.Len())
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after the end: %v", err)
			}
			if r.buf != nil {
				t.Error("the reader holds a buffer after the end")
			}
		})
	}
}

func TestReaderReset(t *testing.T) {
	for name, reader := range readers {
		t.Run(name, func(t *testing.T) {
			near, far := relaytest.TCPPair(t)
			_, err := near.Write([]byte("last words"))
			relaytest.Check(t, err)
			r := reader(far)
			if got, err := r.Next(); string(got) != "last words" {
				t.Fatalf("%q, %v", got, err)
			}
			Reset(near)
			if _, err := r.Next(); runtime.GOOS != "windows" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after a reset: %v", err)
			}
		})
	}
}

// Next returns when the connection is closed or its deadline has passed.
func TestReaderCloseAndDeadline(t *testing.T) {
	for name, reader := range readers {
		t.Run(name, func(t *testing.T) {
			_, far := relaytest.TCPPair(t)
			r := reader(far)
			relaytest.Check(t, far.SetReadDeadline(time.Now()))
			if _, err := r.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %v", err)
			}
			relaytest.Check(t, far.SetReadDeadline(time.Time{}))
			done := make(chan error)
			go func() {
				_, err := r.Next()
				done <- err
			}()
			relaytest.Check(t, far.Close())
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			if r.buf != nil {
				t.Error("the reader holds a buffer")
			}
		})
	}
}

// An idle reader holds no buffer: Next releases it before it waits.
func TestReaderIdleHoldsNoBuffer(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	r := NewReader(far)
	if r.raw == nil {
		t.Skip("read through Read on this system")
	}
	ready, waits := r.ready, make(chan *Buffer, 10)
	r.ready = func(fd uintptr) bool {
		done := ready(fd)
		if !done {
			waits <- r.buf
		}
		return done
	}
	for range 3 {
		next := make(chan string)
		go func() {
			got, _ := r.Next()
			next <- string(got)
		}()
		if held := <-waits; held != nil {
			t.Error("Next waits while it holds a buffer")
		}
		_, err := near.Write([]byte("word"))
		relaytest.Check(t, err)
		if got := <-next; got != "word" {
			t.Errorf("got %q", got)
		}
	}
}

func TestReaderDatagrams(t *testing.T) {
	near, far := udpPair(t)
	r := NewReader(far)
	defer r.Release()
	big := make([]byte, 65507)
	_, _ = rand.Read(big)
	for _, sent := range [][]byte{[]byte("one"), {}, big, {}, []byte("two")} {
		_, err := near.Write(sent)
		relaytest.Check(t, err)
		got, err := r.Next()
		if err != nil || got == nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes and %v, want the %d sent", len(got), err, len(sent))
		}
	}
}

// An ICMP message causes an error. The socket stays usable.
func TestReaderICMP(t *testing.T) {
	near, far := udpPair(t)
	address := far.LocalAddr().(*net.UDPAddr)
	relaytest.Check(t, far.Close())
	_, err := near.Write([]byte("refused"))
	relaytest.Check(t, err)
	r := NewReader(near)
	defer r.Release()
	relaytest.Check(t, near.SetReadDeadline(time.Now().Add(relaytest.Limit)))
	if _, err := r.Next(); runtime.GOOS == "linux" && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("after an ICMP port unreachable: %v", err)
	}
	back, err := net.DialUDP("udp", address, near.LocalAddr().(*net.UDPAddr))
	relaytest.Check(t, err)
	defer back.Close()
	_, err = back.Write([]byte("here"))
	relaytest.Check(t, err)
	if got, err := r.Next(); string(got) != "here" {
		t.Errorf("%q, %v", got, err)
	}
}

// dataAndError is a connection whose Read returns bytes and an error together.
type dataAndError struct {
	net.Conn
	err error
}

func (c dataAndError) Read(p []byte) (int, error) { return copy(p, "last"), c.err }

func TestReaderErrorWithBytes(t *testing.T) {
	for _, err := range []error{io.EOF, errors.New("cut")} {
		r := NewReader(dataAndError{err: err})
		if got, gotErr := r.Next(); string(got) != "last" || gotErr != nil {
			t.Errorf("%q, %v, want the bytes first", got, gotErr)
		}
		if got, gotErr := r.Next(); len(got) != 0 || gotErr != err {
			t.Errorf("%q, %v, want %v", got, gotErr, err)
		}
		if r.buf != nil {
			t.Error("the reader holds a buffer")
		}
	}
}

func TestReaderAllocatesNothing(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	r := NewReader(far)
	defer r.Release()
	word := []byte("word")
	round := func() {
		if _, err := near.Write(word); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	round()
	// The garbage collector empties the pool at times, which causes an allocation.
	if n := testing.AllocsPerRun(200, round); n >= 1 {
		t.Errorf("%v allocations for a read", n)
	}
}

func TestBuffers(t *testing.T) {
	if BufferSize < 65507 {
		t.Error("the largest datagram does not fit")
	}
	one, other := GetBuffer(), GetBuffer()
	if one == other {
		t.Error("GetBuffer returned the same buffer twice")
	}
	one.Free()
	other.Free()
}
