package module_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/async-relay/caddy-relay/upstream"
)

// introduction reads what a backend is sent: the header, then size bytes.
func introduction(t *testing.T, conn net.Conn, size int) (header *proxyproto.Header, rest string) {
	t.Helper()
	r := bufio.NewReader(conn)
	header, err := proxyproto.Read(r)
	if err != nil {
		t.Fatalf("the header: %v", err)
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(r, buf); err != nil {
		t.Fatalf("behind the header: %v", err)
	}
	return header, string(buf)
}

// introduces expects a header of a client and of where it came in.
func introduces(t *testing.T, h *proxyproto.Header, version byte, client, local string) {
	t.Helper()
	if h.Version != version || h.Command != proxyproto.PROXY || h.SourceAddr.String() != client || h.DestinationAddr.String() != local {
		t.Errorf("header of version %d, command %v, %v to %v; want version %d, %s to %s", h.Version, h.Command, h.SourceAddr, h.DestinationAddr, version, client, local)
	}
}

// versions runs a test for each, as it is written and as a number.
func versions(t *testing.T, test func(t *testing.T, name string, version byte)) {
	for i, name := range []string{"v1", "v2"} {
		t.Run(name, func(t *testing.T) { test(t, name, byte(i+1)) })
	}
}

// The header comes first, also before what matchers have read, and at the
// backend that serves after others have failed.
func TestProxyProtocolToTCPBackends(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		overBoth(t, func(t *testing.T) {
			ln, at := listenTCP(t), freeAddr(t)
			s := start(t, fmt.Sprintf(`TCP/%s {
				@hello regexp ^hello 5
				route @hello {
					relay %s %s {
						name %s
						proxy_protocol %s
						access_log tcp
					}
				}
			}`, at, freeAddr(t), ln.Addr(), serviceAt(at), name))
			client := dial(t, "tcp", at)
			if _, err := io.WriteString(client, "hello backend"); err != nil {
				t.Fatal(err)
			}
			backend := accept(t, ln)
			h, rest := introduction(t, backend, 13)
			introduces(t, h, version, client.LocalAddr().String(), at)
			if h.TransportProtocol != proxyproto.TCPv4 || rest != "hello backend" {
				t.Errorf("%v, then %q", h.TransportProtocol, rest)
			}
			pass(t, backend, client, "hello client")
			client.Close()
			drainOf(backend)
			backend.Close()
			s.reasonOf("client_closed", 13, 12) // the header is not the client's
			if use := useOf(serviceAt(at), ln.Addr().String(), upstream.TCP); use.BytesUp != 13 || use.BytesDown != 12 {
				t.Errorf("counted: %+v", use.Totals)
			}
		})
	})
}

// On a wildcard address the header has that which the client sent to, and is
// of IPv4 for a client that came by IPv4.
func TestProxyProtocolOnAWildcardAddress(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		overBoth(t, func(t *testing.T) {
			ln, port := listenTCP(t), freePort(t)
			start(t, block(fmt.Sprintf("TCP/:%d", port), fmt.Sprintf("%s {\n proxy_protocol %s\n }", ln.Addr(), name)))
			for _, ip := range []string{"127.0.0.1", "::1"} {
				at := net.JoinHostPort(ip, fmt.Sprint(port))
				if probe, err := net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
					t.Log("no such address on this machine: ", err)
					continue
				} else {
					probe.Close()
				}
				client := dial(t, "tcp", at)
				h, _ := introduction(t, accept(t, ln), 0)
				introduces(t, h, version, client.LocalAddr().String(), at)
				if want := map[string]proxyproto.AddressFamilyAndProtocol{"127.0.0.1": proxyproto.TCPv4, "::1": proxyproto.TCPv6}[ip]; h.TransportProtocol != want {
					t.Errorf("%s: %v", ip, h.TransportProtocol)
				}
			}
		})
	})
}

// The client that an inbound header tells of is the one the backend hears of.
func TestProxyProtocolIsPassedOn(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		overBoth(t, func(t *testing.T) {
			ln, at := listenTCP(t), freeAddr(t)
			s := start(t, fmt.Sprintf("TCP/%s {\n route {\n proxy_protocol\n relay %s {\n proxy_protocol %s\n access_log tcp\n }\n }\n }", at, ln.Addr(), name))
			client := dial(t, "tcp", at)
			if _, err := io.WriteString(client, "PROXY TCP4 198.51.100.7 203.0.113.9 4711 80\r\nhello"); err != nil {
				t.Fatal(err)
			}
			backend := accept(t, ln)
			h, rest := introduction(t, backend, 5)
			introduces(t, h, version, "198.51.100.7:4711", "203.0.113.9:80")
			if rest != "hello" {
				t.Errorf("then %q", rest)
			}
			client.Close()
			drainOf(backend)
			backend.Close()
			line := s.accesses(1)[0]
			if line["client"] != "198.51.100.7:4711" || line["bytes_up"] != 5.0 {
				t.Errorf("%v", line)
			}
		})
	})
}

func TestProxyProtocolBehindTLS(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		ln, at := listenTCP(t), freeAddr(t)
		startBehindTLS(t, at, fmt.Sprintf("%s {\n proxy_protocol %s\n }", ln.Addr(), name))
		client := trusting(dial(t, "tcp", at))
		if _, err := io.WriteString(client, "hello"); err != nil {
			t.Fatal(err)
		}
		h, rest := introduction(t, accept(t, ln), 5)
		introduces(t, h, version, client.LocalAddr().String(), at)
		if rest != "hello" {
			t.Errorf("then %q", rest)
		}
	})
}
