package module_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

// datagramSizes are sizes around each limit: matchers of caddy-l4 read 2048 bytes
// at a time, its own listeners cut datagrams at 9000, and UDP allows 65,507.
var datagramSizes = []int{0, 1, 2, 512, 1472, 2048, 2049, 8999, 9000, 9001, 16000, 32768, 65507}

// mirror starts a UDP backend that answers each datagram with the same datagram.
func mirror(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	return pc.LocalAddr().String()
}

// datagram returns a datagram of that size. It begins with HELLO, as far as the
// size allows. mark makes it different from others of the same size.
func datagram(size int, mark byte) []byte {
	d := bytes.Repeat([]byte{mark}, size)
	copy(d, "HELLO")
	return d
}

// sendAll sends datagrams and checks that the same ones come back in order.
func sendAll(t *testing.T, conn net.Conn, datagrams ...[]byte) {
	t.Helper()
	for _, d := range datagrams {
		if _, err := conn.Write(d); err != nil {
			t.Fatalf("send %d bytes: %v", len(d), err)
		}
	}
	buf := make([]byte, 64<<10)
	for i, want := range datagrams {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("datagram %d of %d bytes: %v", i, len(want), err)
		}
		if !bytes.Equal(buf[:n], want) {
			t.Fatalf("datagram %d: sent %d bytes, got %d, others: %.20q", i, len(want), n, buf[:n])
		}
	}
}

// nothingMore checks that no further datagram comes.
func nothingMore(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := conn.Read(make([]byte, 64<<10))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes more, %v", n, err)
	}
}

func TestDatagramSizes(t *testing.T) {
	backend, at := mirror(t), freeAddr(t)
	start(t, block("relay+udp/"+at, backend))
	for _, size := range datagramSizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			conn := dial(t, "udp", at)
			sendAll(t, conn, datagram(size, 'a')) // the first datagram of a session
			sendAll(t, conn, datagram(size, 'b'), datagram(size, 'c'))
			nothingMore(t, conn)
		})
	}
}

// A matcher reads the first bytes of a client across datagrams. What it has read is
// delivered with the original boundaries.
func TestDatagramSizesBehindAMatcher(t *testing.T) {
	backend := mirror(t)
	var config string
	at := make(map[int]string) // addresses by the number of bytes that the matcher needs
	for _, count := range []int{1, 2, 5, 12000} {
		at[count] = freeAddr(t)
		config += fmt.Sprintf("relay+udp/%s {\n @hello regexp ^%.*s %d\n route @hello {\n relay %s\n }\n }\n", at[count], min(count, 5), "HELLO", count, backend)
	}
	start(t, config)
	for _, size := range datagramSizes {
		if size == 0 {
			continue // a matcher that reads waits for more: see below
		}
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			count := min(size, 5)
			if count != 1 && count != 2 {
				count = 5
			}
			conn := dial(t, "udp", at[count])
			sendAll(t, conn, datagram(size, 'a'))
			sendAll(t, conn, datagram(size, 'b'), datagram(size, 'c'))
			nothingMore(t, conn)
		})
	}
	for name, datagrams := range map[string][][]byte{
		"an empty one before":        {{}, datagram(100, 'a'), {}},
		"pieces of a word":           {[]byte("H"), []byte("E"), []byte("LL"), []byte("O and more"), []byte("rest")},
		"a small one and a big one":  {[]byte("HEL"), append([]byte("LO"), bytes.Repeat([]byte("z"), 30000)...), datagram(9001, 'b')},
		"a word that ends in a next": {[]byte("HELL"), []byte("O")},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, "udp", at[5])
			sendAll(t, conn, datagrams...)
			nothingMore(t, conn)
		})
	}
	for _, sizes := range [][]int{{12000}, {65507}, {9001, 9001}, {2048, 2049, 8999}, {5, 1472, 1, 16000, 3}, {4000, 4000, 4000, 4000}} {
		t.Run(fmt.Sprint("a matcher of 12000 bytes: ", sizes), func(t *testing.T) {
			conn := dial(t, "udp", at[12000])
			var datagrams [][]byte
			for i, size := range sizes {
				datagrams = append(datagrams, datagram(size, byte('a'+i)))
			}
			sendAll(t, conn, datagrams...)
			sendAll(t, conn, datagram(9001, 'z'))
			nothingMore(t, conn)
		})
	}
}
