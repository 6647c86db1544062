package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// A UDP session leaves an address that its backend's name has lost: after a flush,
// although the backend there still answers, and without a strike.
func TestSessionLeavesLostAddress(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		port := freePort(t)
		for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
			if pc, err := net.ListenPacket("udp", ip+":0"); err != nil {
				t.Skipf("no address %s on this system: %v", ip, err)
			} else {
				pc.Close()
			}
			echoUDP(t, ip, fmt.Sprintf("%s:%d", ip, port))
		}
		names := startNameServer(t, "127.0.0.2")
		at, web := freeAddr(t), unique("web")
		s := start(t, block("UDP/"+at, fmt.Sprintf("%s.test:%d {\n name %s\n resolvers %s\n }", web, port, web, names.addr)))
		conn := dial(t, "udp", at)
		if got := ask(t, conn, "x"); got != "127.0.0.2 x" {
			t.Fatalf("got %q", got)
		}
		names.set("127.0.0.3")
		s.must("POST", "dns/flush?host="+web+".test", nil)
		for end := time.Now().Add(10 * time.Second); ; {
			got := ask(t, conn, "x")
			if strings.HasPrefix(got, "127.0.0.3 ") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the session still gets %q", got)
			}
		}
		if got := s.service(web).Totals.Failures; got != 0 {
			t.Errorf("%d failures", got)
		}
	})
}
