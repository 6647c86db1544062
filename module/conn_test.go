package module_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// startJSON runs a config of one layer4 server and the given apps.
func startJSON(t *testing.T, at, routes, apps string) {
	t.Helper()
	config := fmt.Sprintf(`{"admin":{"disabled":true},"apps":{%s"layer4":{"servers":{"s":{"listen":[%q],"routes":%s}}}}}`, apps, over.tcp+"/"+at, routes)
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}

// startTLS starts a relay behind Caddy's TLS termination. The test plays the
// backend.
func startTLS(t *testing.T) (at string, backend *net.TCPListener) {
	t.Helper()
	backend = listenTCP(t)
	cert, key := certificate(t)
	at = freeAddr(t)
	startJSON(t, at,
		fmt.Sprintf(`[{"handle":[{"handler":"tls"},{"handler":"relay","backends":[%q]}]}]`, backend.Addr()),
		fmt.Sprintf(`"tls":{"certificates":{"load_files":[{"certificate":%q,"key":%q}]}},`, cert, key))
	return at, backend
}

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func accept(t *testing.T, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	_ = ln.SetDeadline(time.Now().Add(relaytest.Limit))
	conn, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	der2, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", der2)
}

func dialTLS(t *testing.T, at string) *tls.Conn {
	t.Helper()
	conn := tls.Client(dial(t, "tcp", at), &tls.Config{ServerName: "relay.test", InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestTLSClients(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		t.Run("half-close in both directions", func(t *testing.T) {
			at, ln := startTLS(t)
			client := dialTLS(t, at)
			backend := accept(t, ln)
			if _, err := io.WriteString(client, "question"); err != nil {
				t.Fatal(err)
			}
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(backend); err != nil || string(got) != "question" {
				t.Fatalf("the backend got %q, %v", got, err)
			}
			if _, err := io.WriteString(backend, "answer"); err != nil {
				t.Fatal(err)
			}
			backend.Close()
			// ReadAll returns an error unless the peer sent close_notify.
			if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
				t.Errorf("the client got %q, %v", got, err)
			}
		})
		t.Run("a reset backend resets the client", func(t *testing.T) {
			at, ln := startTLS(t)
			client := dialTLS(t, at)
			backend := accept(t, ln)
			if _, err := io.WriteString(backend, "half of an ans"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(client, make([]byte, 14)); err != nil {
				t.Fatal(err)
			}
			_ = backend.SetLinger(0)
			backend.Close()
			if _, err := client.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
				t.Errorf("the client saw %v, want a reset", err)
			}
		})
		t.Run("a reset client resets the backend", func(t *testing.T) {
			at, ln := startTLS(t)
			client := dialTLS(t, at)
			backend := accept(t, ln)
			_ = client.NetConn().(*net.TCPConn).SetLinger(0)
			client.NetConn().Close()
			if _, err := backend.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
				t.Errorf("the backend saw %v, want a reset", err)
			}
		})
	})
}

func TestProxyProtocolBeforeTheRelay(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		ln := listenTCP(t)
		at := freeAddr(t)
		startJSON(t, at, fmt.Sprintf(`[{"handle":[{"handler":"proxy_protocol"},{"handler":"relay","backends":[%q]}]}]`, ln.Addr()), "")
		client := dial(t, "tcp", at).(*net.TCPConn)
		if _, err := io.WriteString(client, "PROXY TCP4 198.51.100.7 203.0.113.9 4711 80\r\nhello"); err != nil {
			t.Fatal(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		backend := accept(t, ln)
		if got, err := io.ReadAll(backend); err != nil || string(got) != "hello" {
			t.Fatalf("the backend got %q, %v", got, err)
		}
		// The wrapper has no CloseWrite. The client must still get an orderly end.
		if _, err := io.WriteString(backend, "bye"); err != nil {
			t.Fatal(err)
		}
		backend.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "bye" {
			t.Errorf("the client got %q, %v", got, err)
		}
	})
}

// If a handler hides the socket, the relay cannot half-close or reset: the end of
// one direction ends both, and a reset becomes a FIN.
func TestThrottleBeforeTheRelay(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		ln := listenTCP(t)
		at := freeAddr(t)
		startJSON(t, at, fmt.Sprintf(`[{"handle":[{"handler":"throttle","read_bytes_per_second":1000000,"read_burst_size":100000},{"handler":"relay","backends":[%q]}]}]`, ln.Addr()), "")
		client := dial(t, "tcp", at)
		backend := accept(t, ln)
		if _, err := io.WriteString(client, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(backend, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(backend, "bye"); err != nil {
			t.Fatal(err)
		}
		backend.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "bye" {
			t.Errorf("the client got %q, %v", got, err)
		}
	})
}
