package handler

import (
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// benchRelay starts an echo server and a relay in front of it, and returns the
// relay's address.
func benchRelay(b *testing.B) (addr string) {
	b.Helper()
	server := serveTCP(b, "127.0.0.1:0", echo)
	service := NewService("bench", upstream.NewPool(backendAddresses(b, server.String()), 0, time.Now()), nil, NewSessionBudget(1, nil))
	relay := New(service, Options{ConnectTimeout: relaytest.Limit, IdleTimeout: relaytest.Limit, Resolver: newFakeResolver(), TCP: stream.NewEngine(nil), Log: zap.NewNop()})
	front := serveTCP(b, "127.0.0.1:0", func(conn *net.TCPConn) { relay.ServeTCP(b.Context(), plainClient(conn)) })
	return front.String()
}

var word = make([]byte, 64)

// pingPong writes word and reads it back.
func pingPong(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(word); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// BenchmarkConnectEchoClose measures a client that connects, sends 64 bytes, reads
// them back and closes.
func BenchmarkConnectEchoClose(b *testing.B) {
	addr := benchRelay(b)
	buf := make([]byte, len(word))
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", addr)
		relaytest.Check(b, err)
		relaytest.Check(b, pingPong(conn, buf))
		relaytest.Check(b, conn.(*net.TCPConn).SetLinger(0)) // or closed connections use up the ports
		relaytest.Check(b, conn.Close())
	}
}

// BenchmarkConnectEchoCloseParallel is BenchmarkConnectEchoClose with a client for
// each CPU.
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

// BenchmarkPingPong measures 64 bytes to the backend and back.
func BenchmarkPingPong(b *testing.B) {
	conn := relaytest.DialTCP(b, benchRelay(b))
	buf := make([]byte, len(word))
	b.ReportAllocs()
	for b.Loop() {
		relaytest.Check(b, pingPong(conn, buf))
	}
}

// BenchmarkBulk measures bytes that pass the relay twice: to the backend and back.
func BenchmarkBulk(b *testing.B) {
	conn := relaytest.DialTCP(b, benchRelay(b))
	piece := make([]byte, 1<<20)
	received := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		received <- err
	}()
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	for b.Loop() {
		_, err := conn.Write(piece)
		relaytest.Check(b, err)
	}
	relaytest.Check(b, conn.CloseWrite())
	relaytest.Check(b, <-received)
}
