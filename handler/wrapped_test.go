package handler

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
)

// A client of no sockets at all: net.Pipe has neither half-close nor reset.
func TestPipeClient(t *testing.T) {
	noLeaks(t)
	server, conns := handOver(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	near, far := net.Pipe()
	done := r.serve(context.Background(), stream.Client{Conn: far, Early: []byte("early ")})
	backend := receiveFrom(t, "a connection", conns)
	say(t, near, "bird")
	hear(t, backend, "early bird")
	say(t, backend, "worm")
	hear(t, near, "worm")
	// With no way to tell the client of one end, it is the end of both.
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", near, "FIN")
	wantEnding(t, "the backend", backend, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.BackendClosed, 10, 4)
}

func TestPipeClientIsRefused(t *testing.T) {
	noLeaks(t)
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")})
	near, far := net.Pipe()
	done := r.serve(context.Background(), stream.Client{Conn: far})
	wantEnding(t, "the client", near, "FIN")
	receiveFrom(t, "the end", done)
	r.line("client refused")
}

// wrapped is a connection that says nothing of what is beneath it.
type wrapped struct{ net.Conn }

// Its socket is given beside it, so that it is reset, and seen to be.
func TestWrappedClientIsReset(t *testing.T) {
	noLeaks(t)
	server, conns := handOver(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	near, far := tcpPair(t)
	r.serve(context.Background(), stream.Client{Conn: wrapped{far}, CloseWrite: far.CloseWrite, Socket: far})
	backend := receiveFrom(t, "a connection", conns)
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", near, "FIN")
	say(t, near, "after")
	hear(t, backend, "after")
	resetNow(t, near)
	wantEnding(t, "the backend", backend, "RST")

	near, far = tcpPair(t)
	r.serve(context.Background(), stream.Client{Conn: wrapped{far}, CloseWrite: far.CloseWrite, Socket: far})
	backend = receiveFrom(t, "a connection", conns)
	say(t, backend, "hello")
	hear(t, near, "hello")
	resetNow(t, backend)
	wantEnding(t, "the client", near, "RST")
}

// tlsRelay is a relay whose client came in by TLS, as behind Caddy's tls handler.
func tlsRelay(t *testing.T, edit ...func(*Options)) (r *rig, client *tls.Conn, socket, backend *net.TCPConn, done <-chan struct{}) {
	t.Helper()
	noLeaks(t)
	server, conns := handOver(t, "127.0.0.1:0")
	r = newRig(t, []string{server.String()}, edit...)
	near, far := tcpPair(t)
	inside := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	client = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error)
	go func() { shaken <- inside.Handshake() }()
	check(t, client.Handshake())
	check(t, receiveFrom(t, "a handshake", shaken))
	done = r.serve(context.Background(), stream.Client{Conn: inside, CloseWrite: inside.CloseWrite, Socket: far})
	backend = receiveFrom(t, "a connection", conns)
	r.line("connected") // or a reset might be the dial's
	return r, client, near, backend, done
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// TLS' goodbye is its half-close: the other direction goes on.
func TestTLSHalfCloseByClient(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t)
	say(t, client, "question")
	check(t, client.CloseWrite())
	hear(t, backend, "question")
	wantEnding(t, "the backend", backend, "FIN")
	say(t, backend, "answer")
	hear(t, client, "answer")
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientClosed, 8, 6)
}

func TestTLSHalfCloseByBackend(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t)
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	say(t, client, "upload")
	hear(t, backend, "upload")
	check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.BackendClosed, 6, 0)
}

func TestTLSResets(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		r, _, socket, backend, done := tlsRelay(t)
		resetNow(t, socket)
		wantEnding(t, "the backend", backend, "RST")
		receiveFrom(t, "the end", done)
		r.wantEnd(stream.ClientReset, 0, 0)
	})
	t.Run("by the backend", func(t *testing.T) {
		r, client, _, backend, done := tlsRelay(t)
		resetNow(t, backend)
		wantEnding(t, "the client", client, "RST")
		receiveFrom(t, "the end", done)
		r.wantEnd(stream.BackendReset, 0, 0)
	})
	// A FIN within a record cuts it. (Between two records package tls takes it
	// for the end, for the sake of the many who do not say goodbye.)
	t.Run("cut by a FIN within a record", func(t *testing.T) {
		r, _, socket, backend, done := tlsRelay(t)
		say(t, socket, "\x17\x03\x03\x01\x00half a record")
		check(t, socket.CloseWrite())
		wantEnding(t, "the backend", backend, "RST")
		receiveFrom(t, "the end", done)
		r.wantEnd(stream.ClientReset, 0, 0)
	})
}

func TestTLSIdleTimeout(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t, shortIdle)
	wantEnding(t, "the client", client, "FIN") // a goodbye; a bare FIN is "unexpected EOF"
	wantEnding(t, "the backend", backend, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.IdleTimeout, 0, 0)
}

// A write that hangs in TLS must not hang the end of the relay.
func TestTLSClientThatStoppedReading(t *testing.T) {
	r, _, _, backend, done := tlsRelay(t, shortIdle)
	sent := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = backend.Write(make([]byte, 1<<20))
		}
		sent <- err
	}()
	receiveFrom(t, "the end", done)
	receiveFrom(t, "the end of the sender", sent)
	if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.IdleTimeout) {
		t.Errorf("ended by %v", got)
	}
}

func TestTLSCarriesBulk(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t)
	data := make([]byte, 4<<20)
	_, _ = rand.Read(data)
	echoed := make(chan error)
	go func() {
		_, err := io.Copy(backend, backend)
		echoed <- errors.Join(err, backend.CloseWrite())
	}()
	go func() {
		_, err := client.Write(data)
		echoed <- errors.Join(err, client.CloseWrite())
	}()
	got, err := io.ReadAll(client)
	check(t, err)
	if !bytes.Equal(got, data) {
		t.Error("other bytes came back")
	}
	check(t, receiveFrom(t, "an end", echoed))
	check(t, receiveFrom(t, "an end", echoed))
	receiveFrom(t, "the end", done)
	r.wantEnd(stream.ClientClosed, int64(len(data)), int64(len(data)))
}
