package relaytest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Transfer sends size random bytes and a FIN from one end of a relay to the other,
// and receives exactly these. The channel gets nil or what went wrong. With
// stalls the receiver stops reading four times, for long enough that everything
// before it fills up. Pieces have random lengths, short ones as often as long
// ones.
func Transfer(from, to *net.TCPConn, size int64, stalls bool) <-chan error {
	done := make(chan error, 1)
	type sending struct {
		sum [sha256.Size]byte
		err error
	}
	sent := make(chan sending, 1)
	go func() { // ends with the last byte or with the connection
		sum, err := SendRandom(from, size)
		sent <- sending{sum, errors.Join(err, from.CloseWrite())}
	}()
	go func() { // the same
		var reader io.Reader = to
		if stalls {
			reader = &stallingReader{Reader: to, every: size / 4}
		}
		sum, n, err := ReceiveAll(reader)
		s := <-sent
		switch {
		case err != nil || s.err != nil:
			done <- fmt.Errorf("send: %v; receive after %d of %d bytes: %v", s.err, n, size, err)
		case n != size:
			done <- fmt.Errorf("received %d bytes, want %d", n, size)
		case s.sum != sum:
			done <- errors.New("received other bytes than were sent")
		default:
			done <- nil
		}
	}()
	return done
}

// stallingReader stops reading for a while every so many bytes.
type stallingReader struct {
	io.Reader
	every, read int64
}

func (s *stallingReader) Read(b []byte) (int, error) {
	if s.read >= s.every {
		s.read = 0
		time.Sleep(100 * time.Millisecond)
	}
	n, err := s.Reader.Read(b)
	s.read += int64(n)
	return n, err
}

// randomLength returns a length of at most 512 KiB, short ones as often as long ones.
func randomLength() int { return 1 + rand.IntN(1<<rand.IntN(19)) }

// SendRandom writes size random bytes and returns their checksum.
func SendRandom(to io.Writer, size int64) (sum [sha256.Size]byte, err error) {
	source, digest := rand.NewChaCha8([32]byte{byte(size)}), sha256.New()
	buf := make([]byte, 1<<19)
	for size > 0 && err == nil {
		piece := buf[:min(int64(randomLength()), size)]
		_, _ = source.Read(piece)
		digest.Write(piece)
		_, err = to.Write(piece)
		size -= int64(len(piece))
	}
	return sumOf(digest), err
}

// ReceiveAll reads to the end of the stream and returns the checksum of what it
// read. The end itself is no error.
func ReceiveAll(from io.Reader) (sum [sha256.Size]byte, total int64, err error) {
	digest := sha256.New()
	buf := make([]byte, 1<<19)
	for {
		n, err := from.Read(buf[:randomLength()])
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
