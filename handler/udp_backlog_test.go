package handler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// texts are the datagrams of a backlog.
func (b *backlog) texts() []string {
	list := make([]string, len(b.datagrams))
	for i, d := range b.datagrams {
		list[i] = string(d)
	}
	return list
}

func (b *backlog) held() int {
	held := 0
	for _, d := range b.datagrams[:cap(b.datagrams)] {
		held += cap(d)
	}
	return held
}

func TestBacklogBounds(t *testing.T) {
	kib := func(n int) []byte { return make([]byte, n<<10) }
	t.Run("64 datagrams", func(t *testing.T) {
		var b backlog
		for i := range 64 {
			if !b.add(nil) {
				t.Fatalf("datagram %d refused", i)
			}
		}
		if b.add(nil) {
			t.Fatal("the 65th was taken")
		}
	})
	t.Run("a mebibyte, to the byte", func(t *testing.T) {
		var b backlog
		for range 32 {
			b.add(kib(32))
		}
		if b.bytes != 1<<20 || b.add([]byte("x")) {
			t.Fatalf("%d bytes, and one more taken", b.bytes)
		}
		if !b.add(nil) {
			t.Fatal("an empty datagram needs no room")
		}
	})
	t.Run("trim keeps the last 16", func(t *testing.T) {
		var b backlog
		for i := range 20 {
			b.add(fmt.Append(nil, i))
		}
		b.trim()
		if got := b.texts(); len(got) != 16 || got[0] != "4" || got[15] != "19" {
			t.Fatal(got)
		}
	})
	t.Run("trim keeps the last 64 KiB, to the byte", func(t *testing.T) {
		var b backlog
		for range 3 {
			b.add(kib(32))
		}
		if b.trim(); len(b.datagrams) != 2 {
			t.Fatalf("%d kept, want 2", len(b.datagrams))
		}
		b.add([]byte("x"))
		if b.trim(); len(b.datagrams) != 2 || b.bytes != 32<<10+1 {
			t.Fatalf("%d kept of %d bytes", len(b.datagrams), b.bytes)
		}
	})
	t.Run("clear gives the memory of a burst back", func(t *testing.T) {
		var b backlog
		b.add(kib(60))
		b.add(kib(1)) // small ones behind a big one: its memory is held until
		b.add(kib(4)) // it is trimmed, and beyond the length after that
		b.trim()
		b.add([]byte("x"))
		b.clear()
		if b.held() > retainedBytes {
			t.Fatalf("%d bytes held", b.held())
		}
	})
	t.Run("also when one small datagram is left", func(t *testing.T) {
		var b backlog
		b.add(kib(63))
		b.add(kib(2))
		b.trim()
		b.clear()
		if b.held() > retainedBytes {
			t.Fatalf("%d bytes held", b.held())
		}
	})
	t.Run("clear keeps what the next small datagram needs", func(t *testing.T) {
		var b backlog
		small := kib(1)
		if allocs := testing.AllocsPerRun(100, func() { b.add(small); b.trim(); b.clear() }); allocs != 0 {
			t.Fatalf("%v allocations", allocs)
		}
	})
}

// Whatever is done to it, a backlog holds what a plain list would.
func TestBacklogModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var b backlog
	var model []string
	size := func() (n int) {
		for _, d := range model {
			n += len(d)
		}
		return n
	}
	for step := range 50_000 {
		switch op := random.IntN(100); {
		case op < 80:
			d := strings.Repeat(string(rune('a'+step%26)), random.IntN(1<<random.IntN(17)))
			room := len(model) < 64 && (len(model) == 0 || size()+len(d) <= 1<<20)
			if b.add([]byte(d)) != room {
				t.Fatalf("step %d: add said %v", step, !room)
			}
			if room {
				model = append(model, d)
			}
		case op < 88:
			if len(model) > 0 {
				i := random.IntN(len(model))
				b.remove(i)
				model = slices.Delete(model, i, i+1)
			}
		case op < 98:
			b.trim()
			for len(model) > 16 || size() > 64<<10 && len(model) > 1 {
				model = model[1:]
			}
		default:
			b.clear()
			model = nil
			if b.held() > retainedBytes {
				t.Fatalf("step %d: %d bytes held", step, b.held())
			}
		}
		if b.bytes != size() || step%16 == 0 && !slices.Equal(b.texts(), model) {
			t.Fatalf("step %d: the backlog differs", step)
		}
	}
}
