package handler

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// texts returns the datagrams of a backlog.
func (b *backlog) texts() []string {
	list := make([]string, len(b.datagrams))
	for i, d := range b.datagrams {
		list[i] = string(d)
	}
	return list
}

// retained returns the bytes of memory that a backlog refers to.
func (b *backlog) retained() int {
	n := 0
	for _, d := range b.datagrams[:cap(b.datagrams)] {
		n += cap(d)
	}
	return n
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
			t.Fatal("the 65th datagram was accepted")
		}
	})
	t.Run("1 MiB, to the byte", func(t *testing.T) {
		var b backlog
		for range 32 {
			b.add(kib(32))
		}
		if b.bytes != 1<<20 || b.add([]byte("x")) {
			t.Fatalf("%d bytes, and one more was accepted", b.bytes)
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
	t.Run("clear frees the memory of a burst", func(t *testing.T) {
		var b backlog
		b.add(kib(60))
		b.add(kib(1)) // small datagrams after a large one: the large one's memory is in use until
		b.add(kib(4)) // it is trimmed, and then beyond the slice's length
		b.trim()
		b.add([]byte("x"))
		b.clear()
		if b.retained() > retainedBytes {
			t.Fatalf("%d bytes retained", b.retained())
		}
	})
	t.Run("clear frees the memory if one small datagram is left", func(t *testing.T) {
		var b backlog
		b.add(kib(63))
		b.add(kib(2))
		b.trim()
		b.clear()
		if b.retained() > retainedBytes {
			t.Fatalf("%d bytes retained", b.retained())
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

// A backlog holds the same datagrams as a simple list, after random operations.
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
				t.Fatalf("step %d: add returned %v", step, !room)
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
			if b.retained() > retainedBytes {
				t.Fatalf("step %d: %d bytes retained", step, b.retained())
			}
		}
		if b.bytes != size() || step%16 == 0 && !slices.Equal(b.texts(), model) {
			t.Fatalf("step %d: the backlog differs", step)
		}
	}
}

// addSent has the same result as add and trim, and copies only what it keeps.
func TestBacklogAddSent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var kept, plain backlog
	for range 3000 {
		var sent [][]byte
		size := []int{0, 10, 1400, 9000, 65507}[random.IntN(5)]
		for i := range 1 + random.IntN(64) {
			sent = append(sent, bytes.Repeat([]byte{byte(i)}, random.IntN(size+1)))
		}
		kept.addSent(sent)
		for _, d := range sent {
			plain.add(d)
			plain.trim()
		}
		if !slices.Equal(kept.texts(), plain.texts()) || kept.bytes != plain.bytes {
			t.Fatalf("%d datagrams with %d bytes are kept, want %d with %d",
				len(kept.datagrams), kept.bytes, len(plain.datagrams), plain.bytes)
		}
	}
	var b backlog
	big := make([]byte, 1000)
	b.addSent(slices.Repeat([][]byte{big}, 64))
	if n := b.retained(); n > 2*resendLength*len(big) {
		t.Errorf("%d bytes were copied", n)
	}
}
