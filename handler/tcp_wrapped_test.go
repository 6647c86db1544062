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

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// net.Pipe is a client without a socket: it has neither half-close nor reset.
func TestPipeClient(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	near, far := net.Pipe()
	done := r.serve(context.Background(), stream.Client{Conn: far, Early: []byte("early ")})
	backend := relaytest.Receive(t, "a connection at the backend", conns)
	relaytest.Write(t, near, "bird")
	relaytest.WantRead(t, backend, "early bird")
	relaytest.Write(t, backend, "worm")
	relaytest.WantRead(t, near, "worm")
	// A FIN cannot be passed on to the client, so it ends both directions.
	relaytest.Check(t, backend.CloseWrite())
	wantEnding(t, "the client", near, "FIN")
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.BackendClosed, 10, 4)
}

func TestPipeClientIsRefused(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")})
	near, far := net.Pipe()
	done := r.serve(context.Background(), stream.Client{Conn: far})
	wantEnding(t, "the client", near, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.line("client refused")
}

// wrapped hides the connection beneath it, as handlers of layer4 do.
type wrapped struct{ net.Conn }

// A wrapped client comes with its socket, through which its resets are noticed and
// made.
func TestWrappedClientResets(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	near, far := relaytest.TCPPair(t)
	r.serve(context.Background(), stream.Client{Conn: wrapped{far}, CloseWriter: far, Socket: far})
	backend := relaytest.Receive(t, "a connection at the backend", conns)
	relaytest.Check(t, backend.CloseWrite())
	wantEnding(t, "the client", near, "FIN")
	relaytest.Write(t, near, "after")
	relaytest.WantRead(t, backend, "after")
	relaytest.Reset(t, near)
	wantEnding(t, "the backend", backend, "RST")

	near, far = relaytest.TCPPair(t)
	r.serve(context.Background(), stream.Client{Conn: wrapped{far}, CloseWriter: far, Socket: far})
	backend = relaytest.Receive(t, "a connection at the backend", conns)
	relaytest.Write(t, backend, "hello")
	relaytest.WantRead(t, near, "hello")
	relaytest.Reset(t, backend)
	wantEnding(t, "the client", near, "RST")
}

// tlsRelay starts a relay for a TLS client, as behind Caddy's tls handler.
func tlsRelay(t *testing.T, edit ...func(*Options)) (r *rig, client *tls.Conn, socket, backend *net.TCPConn, done <-chan struct{}) {
	t.Helper()
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r = newRig(t, []string{server.String()}, edit...)
	near, far := relaytest.TCPPair(t)
	tlsServer := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	client = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	handshaken := make(chan error)
	go func() { handshaken <- tlsServer.Handshake() }()
	relaytest.Check(t, client.Handshake())
	relaytest.Check(t, relaytest.Receive(t, "a handshake", handshaken))
	done = r.serve(context.Background(), stream.Client{Conn: tlsServer, CloseWriter: tlsServer, Socket: far})
	backend = relaytest.Receive(t, "a connection at the backend", conns)
	r.line("connected") // or a reset could still fail the attempt
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

// TLS close_notify is a half-close: the other direction continues.
func TestTLSHalfCloseByClient(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t)
	relaytest.Write(t, client, "question")
	relaytest.Check(t, client.CloseWrite())
	relaytest.WantRead(t, backend, "question")
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Write(t, backend, "answer")
	relaytest.WantRead(t, client, "answer")
	relaytest.Check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientClosed, 8, 6)
}

func TestTLSHalfCloseByBackend(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t)
	relaytest.Check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	relaytest.Write(t, client, "upload")
	relaytest.WantRead(t, backend, "upload")
	relaytest.Check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.BackendClosed, 6, 0)
}

func TestTLSResets(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		r, _, socket, backend, done := tlsRelay(t)
		relaytest.Reset(t, socket)
		wantEnding(t, "the backend", backend, "RST")
		relaytest.Receive(t, "the end of the relay", done)
		r.wantEnd(stream.ClientReset, 0, 0)
	})
	t.Run("by the backend", func(t *testing.T) {
		r, client, _, backend, done := tlsRelay(t)
		relaytest.Reset(t, backend)
		wantEnding(t, "the client", client, "RST")
		relaytest.Receive(t, "the end of the relay", done)
		r.wantEnd(stream.BackendReset, 0, 0)
	})
	// A FIN within a record counts as a reset. (Between two records package tls
	// accepts it as an end, because many peers send no close_notify.)
	t.Run("by a FIN within a record", func(t *testing.T) {
		r, _, socket, backend, done := tlsRelay(t)
		relaytest.Write(t, socket, "\x17\x03\x03\x01\x00half a record")
		relaytest.Check(t, socket.CloseWrite())
		wantEnding(t, "the backend", backend, "RST")
		relaytest.Receive(t, "the end of the relay", done)
		r.wantEnd(stream.ClientReset, 0, 0)
	})
}

func TestTLSIdleTimeout(t *testing.T) {
	r, client, _, backend, done := tlsRelay(t, shortIdle)
	wantEnding(t, "the client", client, "FIN") // with a close_notify; a FIN alone would be "unexpected EOF"
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.IdleTimeout, 0, 0)
}

// A write that blocks in package tls does not delay the end of the relay.
func TestTLSClientStopsReading(t *testing.T) {
	r, _, _, backend, done := tlsRelay(t, shortIdle)
	sent := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = backend.Write(make([]byte, 1<<20))
		}
		sent <- err
	}()
	relaytest.Receive(t, "the end of the relay", done)
	relaytest.Receive(t, "the end of the sender", sent)
	if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.IdleTimeout) {
		t.Errorf("reason %v, want %s", got, stream.IdleTimeout)
	}
}

func TestTLSBulk(t *testing.T) {
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
	relaytest.Check(t, err)
	if !bytes.Equal(got, data) {
		t.Error("received other bytes than were sent")
	}
	relaytest.Check(t, relaytest.Receive(t, "the end of a direction", echoed))
	relaytest.Check(t, relaytest.Receive(t, "the end of a direction", echoed))
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.ClientClosed, int64(len(data)), int64(len(data)))
}
