package handler

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// wantHeader reads a header and compares its version and addresses.
func wantHeader(t *testing.T, from *bufio.Reader, version byte, client, local net.Addr) {
	t.Helper()
	h, err := proxyproto.Read(from)
	if err != nil {
		t.Fatalf("no header: %v", err)
	}
	if h.Version != version || h.SourceAddr.String() != client.String() || h.DestinationAddr.String() != local.String() {
		t.Errorf("version %d, %v to %v; want %d, %v to %v", h.Version, h.SourceAddr, h.DestinationAddr, version, client, local)
	}
}

// The header comes first, also before early bytes, and does not count as bytes of
// the client, whether they are few or so many that they are spliced.
func TestProxyProtocolOverTCP(t *testing.T) {
	for version, option := range map[byte]ProxyProtocol{1: ProxyProtocolV1, 2: ProxyProtocolV2} {
		for _, size := range []int{0, 4, 4 << 20} {
			relaytest.NoLeaks(t)
			server, conns := acceptTCP(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()}, func(o *Options) { o.ProxyProtocol = option })
			near, far := relaytest.TCPPair(t)
			c := plainClient(far)
			c.Early = []byte("early ")
			client, local := near.LocalAddr(), far.LocalAddr()
			done := r.serve(context.Background(), c)
			backend := relaytest.Receive(t, "a connection", conns)
			late := strings.Repeat("l", size)
			sent := make(chan error, 1)
			go func() { // ends with the bytes
				_, err := io.WriteString(near, late)
				sent <- err
			}()
			reader := bufio.NewReader(backend)
			wantHeader(t, reader, version, client, local)
			got := make([]byte, len("early ")+size)
			_, err := io.ReadFull(reader, got)
			relaytest.Check(t, err)
			relaytest.Check(t, relaytest.Receive(t, "the bytes", sent))
			if string(got) != "early "+late {
				t.Errorf("after the header: %.20q", got)
			}
			relaytest.Check(t, near.CloseWrite())
			wantEnding(t, "the backend", backend, "FIN")
			relaytest.Check(t, backend.CloseWrite())
			relaytest.Receive(t, "the end of the relay", done)
			r.wantEnd(stream.ClientClosed, int64(len(got)), 0)
			if up := r.service.Stats(time.Now()).Backends[0].Use[0].BytesUp; up != uint64(len(got)) {
				t.Errorf("%d bytes are counted, want %d", up, len(got))
			}
		}
	}
}

// The first datagram of each socket has a header, or every datagram if so
// configured.
func TestProxyProtocolOverUDP(t *testing.T) {
	for name, test := range map[string]struct {
		option ProxyProtocol
		every  bool
		want   []bool // which datagrams have a header
	}{
		"first": {ProxyProtocolV2, false, []bool{true, false, true, false}},
		"every": {ProxyProtocolV2, true, []bool{true, true, true, true}},
		"none":  {NoProxyProtocol, false, []bool{false, false, false, false}},
		"v1":    {ProxyProtocolV1, true, []bool{false, false, false, false}}, // does not support UDP
	} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) {
				o.ProxyProtocol, o.ProxyProtocolEvery = test.option, test.every
			})
			var mu sync.Mutex
			var got [][]byte
			r.engine.onSend = func(_ *fakeSocket, datagram []byte) error {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, bytes.Clone(datagram))
				return nil
			}
			client := new(udpClient)
			for n := range 2 { // two clients, and so two sockets
				r.deliver(n, client, "one")
				r.engine.socket(n + 1).answer("well?")
				r.deliver(n, client, "two")
				if up := r.session(n).upB; up != 6 {
					t.Errorf("%d bytes are counted, want 6", up)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if len(got) != len(test.want) {
				t.Fatalf("%d datagrams: %q", len(got), got)
			}
			for i, datagram := range got {
				key, word := udpKey(i/2), []string{"one", "two"}[i%2]
				if !test.want[i] {
					if string(datagram) != word {
						t.Errorf("datagram %d is %q, want %q", i, datagram, word)
					}
					continue
				}
				reader := bufio.NewReader(bytes.NewReader(datagram))
				wantHeader(t, reader, 2, net.UDPAddrFromAddrPort(key.Client), net.UDPAddrFromAddrPort(key.Local))
				if rest, _ := io.ReadAll(reader); string(rest) != word {
					t.Errorf("after the header of datagram %d: %q, want %q", i, rest, word)
				}
			}
		})
	}
}

// For addresses that the protocol cannot express, the header has none.
func TestProxyProtocolUnknownAddresses(t *testing.T) {
	pipe := &net.UnixAddr{Name: "client", Net: "unixpacket"}
	for _, v := range []ProxyProtocol{ProxyProtocolV1, ProxyProtocolV2} {
		tcp := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1"))
		header := v.header(pipe, tcp)
		if h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(header))); err != nil || h.Version != byte(v) || h.TransportProtocol != proxyproto.UNSPEC {
			t.Errorf("%q: %+v, %v", header, h, err)
		}
	}
}
