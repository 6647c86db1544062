package logqueue

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// gated is a writer that blocks while a test holds gate.
type gated struct {
	gate  chan struct{} // has one element, which each write takes and puts back
	lines []string
	err   error
}

func newGated() *gated {
	g := &gated{gate: make(chan struct{}, 1)}
	g.gate <- struct{}{}
	return g
}

func (g *gated) Write(line []byte) (int, error) {
	<-g.gate
	defer func() { g.gate <- struct{}{} }()
	g.lines = append(g.lines, string(line))
	return len(line), g.err
}

func (g *gated) Close() error { return g.err }

// Each line is written when Write returns, with its error.
func TestWriter(t *testing.T) {
	relaytest.NoLeaks(t)
	var q Queues
	to := newGated()
	w := q.NewWriter(to, nil)
	buf := make([]byte, 8)
	for i := range 1000 {
		line := fmt.Append(buf[:0], i)
		if n, err := w.Write(line); n != len(line) || err != nil || len(to.lines) != i+1 || to.lines[i] != fmt.Sprint(i) {
			t.Fatalf("line %d: %d, %v, %d lines", i, n, err, len(to.lines))
		}
	}
	to.err = io.ErrShortWrite
	if _, err := w.Write(buf); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v", err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v", err)
	}
}

// A writer that blocks delays one line for the patience, and no line after it. It
// gets the lines that were not dropped when it continues.
func TestWriterThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queues
		to := newGated()
		var dropped uint64
		w := q.NewWriter(to, func(n uint64) { dropped += n })
		<-to.gate
		began := time.Now()
		line := []byte(strings.Repeat("x", 1024))
		const lines = 3 * maxWaitingBytes / 1024
		for range lines {
			if n, err := w.Write(line); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
		if took := time.Since(began); took != patience {
			t.Errorf("%d lines took %v, want %v", lines, took, patience)
		}
		if got, want := q.Dropped(), uint64(lines-maxWaitingBytes/1024); got != want {
			t.Errorf("%d dropped, want %d", got, want)
		}
		to.gate <- struct{}{}
		synctest.Wait()
		if len(to.lines) != maxWaitingBytes/1024 || dropped != q.Dropped() {
			t.Errorf("%d lines written, %d dropped lines reported", len(to.lines), dropped)
		}
		before := len(to.lines)
		_, _ = w.Write(line)
		if len(to.lines) != before+1 {
			t.Error("the line after that was not written when Write returned")
		}
	})
}
