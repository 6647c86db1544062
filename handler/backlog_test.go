package handler

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
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

// wantHeld checks that a backlog counts the memory that it refers to.
func (b *backlog) wantHeld(t *testing.T) {
	t.Helper()
	want := b.retained() + cap(b.datagrams)*int(unsafe.Sizeof(b.datagrams[0])) + cap(b.arrived)*int(unsafe.Sizeof(b.arrived[0]))
	if b.held != want {
		t.Fatalf("%d bytes counted, want %d", b.held, want)
	}
}

func TestBacklogBounds(t *testing.T) {
	kib := func(n int) []byte { return make([]byte, n<<10) }
	t.Run("64 datagrams", func(t *testing.T) {
		var b backlog
		for i := range 64 {
			if !b.add(nil, 0) {
				t.Fatalf("datagram %d refused", i)
			}
		}
		if b.add(nil, 0) {
			t.Fatal("the 65th datagram was accepted")
		}
	})
	t.Run("1 MiB, to the byte", func(t *testing.T) {
		var b backlog
		for range 32 {
			b.add(kib(32), 0)
		}
		if b.bytes != 1<<20 || b.add([]byte("x"), 0) {
			t.Fatalf("%d bytes, and one more was accepted", b.bytes)
		}
		if !b.add(nil, 0) {
			t.Fatal("an empty datagram needs no room")
		}
	})
	t.Run("trim keeps the last 16", func(t *testing.T) {
		var b backlog
		for i := range 20 {
			b.add(fmt.Append(nil, i), 0)
		}
		b.trim()
		if got := b.texts(); len(got) != 16 || got[0] != "4" || got[15] != "19" {
			t.Fatal(got)
		}
	})
	t.Run("trim keeps the last 64 KiB, to the byte", func(t *testing.T) {
		var b backlog
		for range 3 {
			b.add(kib(32), 0)
		}
		if b.trim(); len(b.datagrams) != 2 {
			t.Fatalf("%d kept, want 2", len(b.datagrams))
		}
		b.add([]byte("x"), 0)
		if b.trim(); len(b.datagrams) != 2 || b.bytes != 32<<10+1 {
			t.Fatalf("%d kept of %d bytes", len(b.datagrams), b.bytes)
		}
	})
	t.Run("clear frees the memory of a burst", func(t *testing.T) {
		var b backlog
		b.add(kib(60), 0)
		b.add(kib(1), 0) // small datagrams after a large one: the large one's memory is in use until
		b.add(kib(4), 0) // it is trimmed, and then beyond the slice's length
		b.trim()
		b.add([]byte("x"), 0)
		b.clear(retainedBytes)
		if b.retained() > retainedBytes {
			t.Fatalf("%d bytes retained", b.retained())
		}
	})
	t.Run("clear frees the memory if one small datagram is left", func(t *testing.T) {
		var b backlog
		b.add(kib(63), 0)
		b.add(kib(2), 0)
		b.trim()
		b.clear(retainedBytes)
		if b.retained() > retainedBytes {
			t.Fatalf("%d bytes retained", b.retained())
		}
	})
	t.Run("trim frees the memory of a queue", func(t *testing.T) {
		var b backlog
		for range 16 {
			b.add(kib(64), 0)
		}
		if b.trim(); b.held > 2*resendBytes+queueLength*slotBytes {
			t.Fatalf("%d bytes held", b.held)
		}
	})
	t.Run("small datagrams do not hold the memory of large ones", func(t *testing.T) {
		var b backlog
		for range 16 {
			b.add(kib(4), 0)
			b.add(kib(60), 0)
		}
		for range 2 * resendLength {
			b.addSent([][]byte{[]byte("x")}, 0)
		}
		if b.freeSpare(0); b.held > resendLength*retainedBytes+queueLength*slotBytes {
			t.Fatalf("%d bytes held", b.held)
		}
	})
	t.Run("one small datagram costs little", func(t *testing.T) {
		var b backlog
		if b.add(make([]byte, 64), 0); b.held > 128 {
			t.Fatalf("%d bytes held", b.held)
		}
	})
	t.Run("clear keeps what the next small datagram needs", func(t *testing.T) {
		var b backlog
		small := kib(1)
		if allocs := testing.AllocsPerRun(100, func() { b.add(small, 0); b.trim(); b.clear(retainedBytes) }); allocs != 0 {
			t.Fatalf("%v allocations", allocs)
		}
	})
}

// A backlog holds the same datagrams as a simple list, after random operations.
func TestBacklogModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var b backlog
	var model []string
	var arrived []time.Duration
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
			if b.add([]byte(d), time.Duration(step)) != room {
				t.Fatalf("step %d: add returned %v", step, !room)
			}
			if room {
				model, arrived = append(model, d), append(arrived, time.Duration(step))
			}
		case op < 88:
			if len(model) > 0 {
				i := random.IntN(len(model))
				b.remove(i)
				model, arrived = slices.Delete(model, i, i+1), slices.Delete(arrived, i, i+1)
			}
		case op < 90:
			b.freeSpare(random.IntN(1 << 18))
		case op < 98:
			b.trim()
			for len(model) > 16 || size() > 64<<10 && len(model) > 1 {
				model, arrived = model[1:], arrived[1:]
			}
		default:
			b.clear(retainedBytes)
			model, arrived = nil, nil
			if b.retained() > retainedBytes {
				t.Fatalf("step %d: %d bytes retained", step, b.retained())
			}
		}
		b.wantHeld(t)
		if b.bytes != size() || !slices.Equal(b.arrived, arrived) || step%16 == 0 && !slices.Equal(b.texts(), model) {
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
		kept.addSent(sent, 0)
		for _, d := range sent {
			plain.add(d, 0)
			plain.trim()
		}
		if !slices.Equal(kept.texts(), plain.texts()) || kept.bytes != plain.bytes {
			t.Fatalf("%d datagrams with %d bytes are kept, want %d with %d",
				len(kept.datagrams), kept.bytes, len(plain.datagrams), plain.bytes)
		}
	}
	var b backlog
	big := make([]byte, 1000)
	b.addSent(slices.Repeat([][]byte{big}, 64), 0)
	if n := b.retained(); n > 2*resendLength*len(big) {
		t.Errorf("%d bytes were copied", n)
	}
}
