package module_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// caddy-l4's listener blocks for all clients, for ever, when the channel of one
// association fills up with five datagrams and is not read. These bursts cause that
// with any handler that returns or is busy at the wrong moment.
func TestBurstsDoNotWedgeTheListener(t *testing.T) {
	good, _ := echoUDP(t, "good", freeAddr(t))
	for name, relay := range map[string]string{
		"refused by all backends":         freeAddr(t) + " " + freeAddr(t),
		"a name that is never resolved":   "backend.example:53 {\n resolvers " + silentUDP(t) + "\n connect_timeout 300ms\n }",
		"sessions that end at an answer":  good + " {\n udp_responses 1\n name short\n }",
		"sessions that end by idleness":   good + " {\n idle_timeout 1ms\n name idle\n }",
		"sessions that make room at once": good + " {\n max_udp_sessions 1\n name small\n }",
	} {
		t.Run(name, func(t *testing.T) {
			at := freeAddr(t)
			start(t, fmt.Sprintf(`udp/%s {
				@burst regexp ^BURST 5
				route @burst {
					relay %s
				}
				route {
					relay %s {
						name other
					}
				}
			}`, at, relay, good))
			var clients sync.WaitGroup
			for range 30 {
				conn := dial(t, "udp", at)
				clients.Go(func() {
					for i := range 40 {
						_, _ = fmt.Fprintf(conn, "BURST %d", i)
						if i%10 == 9 {
							runtime.Gosched()
						}
					}
				})
			}
			other := dial(t, "udp", at)
			for i := range 10 {
				text := fmt.Sprintf("quiet %d", i)
				if got := keepAsking(t, other, text); !strings.HasPrefix(got, "good quiet") {
					t.Fatalf("the other client got %q", got)
				}
			}
			clients.Wait()
			late := dial(t, "udp", at)
			if got := keepAsking(t, late, "late"); got != "good late" {
				t.Errorf("after the bursts: got %q", got)
			}
		})
	}
}

// silentUDP starts a UDP backend that does not answer.
func silentUDP(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.LocalAddr().String()
}

func TestFirstDatagramSurvivesDeadBackends(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		good, _ := echoUDP(t, "good", freeAddr(t))
		at := freeAddr(t)
		s := start(t, block("UDP/"+at, freeAddr(t)+" "+freeAddr(t)+" "+good+" {\n name dns\n }"))
		if got := ask(t, dial(t, "udp", at), "only once"); got != "good only once" {
			t.Errorf("got %q", got)
		}
		if got := s.lines("backend order changed"); len(got) != 2 {
			t.Errorf("two dead backends moved %d times", len(got))
		}
		if got := ask(t, dial(t, "udp", at), "second client"); got != "good second client" {
			t.Errorf("got %q", got)
		}
	})
}

func TestUDPBackendDiesAndComesBack(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		first, stop := echoUDP(t, "first", freeAddr(t))
		second, _ := echoUDP(t, "second", freeAddr(t))
		at := freeAddr(t)
		s := start(t, block("UDP/"+at, first+" "+second+" {\n name pair\n }"))
		conn := dial(t, "udp", at)
		if got := ask(t, conn, "1"); got != "first 1" {
			t.Fatalf("got %q", got)
		}
		stop()
		if got := ask(t, conn, "2"); got != "second 2" { // the datagram that hit the failure
			t.Errorf("got %q", got)
		}
		echoUDP(t, "first again", first)
		if got := ask(t, dial(t, "udp", at), "3"); got != "second 3" { // the order is sticky
			t.Errorf("got %q", got)
		}
		if n := len(s.lines("backend failed, second strike")); n != 1 {
			t.Errorf("%d second strikes, want 1", n)
		}
	})
}

// Traffic in either direction keeps an association of caddy-l4 alive. caddy-l4
// itself counts only what the client sends.
func TestBackendMayTalkToASilentClient(t *testing.T) {
	pc, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	at := freeAddr(t)
	start(t, fmt.Sprintf("udp/%s {\n idle_timeout 200ms\n route {\n relay %s {\n idle_timeout 1500ms\n }\n }\n }", at, pc.LocalAddr()))
	conn := dial(t, "udp", at)
	if _, err := conn.Write([]byte("subscribe")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_, client, err := pc.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // 2 s: many idle timeouts of caddy-l4, and longer than that of the relay
		text := fmt.Sprintf("push %d", i)
		if _, err := pc.WriteTo([]byte(text), client); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != text {
			t.Fatalf("push %d: got %q, %v", i, buf[:n], err)
		}
		time.Sleep(100 * time.Millisecond) // the test is about the passing of time
	}
	// Still the same session: the client's next datagram comes from the same port.
	if _, err := conn.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if _, again, err := pc.ReadFrom(buf); err != nil || again.String() != client.String() {
		t.Errorf("the client came from %v and now from %v (%v)", client, again, err)
	}
}
