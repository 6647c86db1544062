package module_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/async-relay/caddy-relay/upstream"
)

// recordUDP starts a UDP backend that keeps its datagrams. It answers each one
// unless answer is empty.
func recordUDP(t *testing.T, answer string) (addr string, got <-chan []byte) {
	t.Helper()
	pc, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	taken := make(chan []byte, 100)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			taken <- bytes.Clone(buf[:n])
			if answer != "" {
				_, _ = pc.WriteTo([]byte(answer), from)
			}
		}
	}()
	return pc.LocalAddr().String(), taken
}

// splitHeader splits a datagram into its header, which is nil if there is none, and
// the rest.
func splitHeader(t *testing.T, datagram []byte) (h *proxyproto.Header, rest string) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(datagram))
	h, err := proxyproto.Read(r)
	if err != nil {
		return nil, string(datagram)
	}
	text, _ := io.ReadAll(r)
	return h, string(text)
}

// The first datagram of a session has the header, or every datagram, depending on
// the option.
func TestProxyProtocolToUDPBackends(t *testing.T) {
	for _, every := range []bool{false, true} {
		t.Run(fmt.Sprint("every ", every), func(t *testing.T) {
			overBoth(t, func(t *testing.T) {
				addr, got := recordUDP(t, "answer")
				at, more := freeAddr(t), ""
				if every {
					more = "proxy_protocol_udp every"
				}
				start(t, block("UDP/"+at, fmt.Sprintf("%s {\n name %s\n proxy_protocol v2\n %s\n }", addr, serviceAt(at), more)))
				for range 2 { // once per session
					client := dial(t, "udp", at)
					for i := range 4 {
						text := fmt.Sprint("datagram ", i)
						if answer := ask(t, client, text); answer != "answer" {
							t.Errorf("got %q", answer)
						}
						h, rest := splitHeader(t, <-got)
						if rest != text || (h != nil) != (every || i == 0) {
							t.Errorf("datagram %d: %v, %q", i, h, rest)
						}
						if h != nil {
							wantHeader(t, h, 2, client.LocalAddr().String(), at)
							if h.TransportProtocol != proxyproto.UDPv4 {
								t.Errorf("%v", h.TransportProtocol)
							}
						}
					}
				}
				if use := useOf(serviceAt(at), addr, upstream.UDP); use.BytesUp != 8*10 || use.DatagramsUp != 8 {
					t.Errorf("counted: %+v", use.Totals)
				}
			})
		})
	}
}

// The second attempt on a backend and the next backend get the header, too.
func TestProxyProtocolToTheNextUDPBackend(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		silent, asked := recordUDP(t, "")
		good, served := recordUDP(t, "answer")
		at := freeAddr(t)
		start(t, block("UDP/"+at, fmt.Sprintf("%s %s {\n proxy_protocol v2\n udp_reply_timeout 1s\n }", silent, good)))
		client := dial(t, "udp", at)
		if answer := ask(t, client, "hello"); answer != "answer" {
			t.Errorf("got %q", answer)
		}
		for i, datagram := range [][]byte{<-asked, <-asked, <-served} {
			h, rest := splitHeader(t, datagram)
			if h == nil || rest != "hello" {
				t.Fatalf("attempt %d: %q", i, datagram)
			}
			wantHeader(t, h, 2, client.LocalAddr().String(), at)
		}
	})
}

// On a wildcard listener of relay+udp/ the header has the address that the client
// sent to.
func TestProxyProtocolOfUDPOnAWildcardAddress(t *testing.T) {
	addr, got := recordUDP(t, "answer")
	port := freePort(t)
	start(t, block(fmt.Sprintf("relay+udp/:%d", port), addr+" {\n proxy_protocol v2\n }"))
	at := fmt.Sprintf("127.0.0.1:%d", port)
	client := dial(t, "udp", at)
	ask(t, client, "hello")
	h, rest := splitHeader(t, <-got)
	if h == nil || rest != "hello" {
		t.Fatalf("%v, %q", h, rest)
	}
	wantHeader(t, h, 2, client.LocalAddr().String(), at)
}
