package handler

import (
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// benchRelay listens with a relay before an echo server.
func benchRelay(b *testing.B) (addr string) {
	b.Helper()
	server := serveTCP(b, "127.0.0.1:0", echo)
	service := NewService("bench", upstream.NewPool(backendAddresses(b, server.String()), 0, time.Now()), nil)
	relay := New(service, Options{ConnectTimeout: limit, IdleTimeout: limit, Resolver: newFakeResolver(), TCP: stream.NewEngine(), Log: zap.NewNop()})
	front := serveTCP(b, "127.0.0.1:0", func(conn *net.TCPConn) { relay.ServeTCP(b.Context(), plain(conn)) })
	return front.String()
}

var word = make([]byte, 64)

func pingPong(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(word); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// A client comes, says a word, hears it and goes.
func BenchmarkConnectEchoClose(b *testing.B) {
	addr := benchRelay(b)
	buf := make([]byte, len(word))
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", addr)
		check(b, err)
		check(b, pingPong(conn, buf))
		check(b, conn.(*net.TCPConn).SetLinger(0)) // or the benchmark runs out of ports
		check(b, conn.Close())
	}
}

func BenchmarkConnectEchoCloseParallel(b *testing.B) {
	addr := benchRelay(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, len(word))
		for pb.Next() {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				err = pingPong(conn, buf)
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkPingPong(b *testing.B) {
	conn := dialTCP(b, benchRelay(b))
	buf := make([]byte, len(word))
	b.ReportAllocs()
	for b.Loop() {
		check(b, pingPong(conn, buf))
	}
}

// Bulk goes up, is echoed and comes down: twice through the relay.
func BenchmarkBulk(b *testing.B) {
	conn := dialTCP(b, benchRelay(b))
	piece := make([]byte, 1<<20)
	back := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		back <- err
	}()
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	for b.Loop() {
		_, err := conn.Write(piece)
		check(b, err)
	}
	check(b, conn.CloseWrite())
	check(b, <-back)
}
