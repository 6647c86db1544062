package listen

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A process without the right to bind a low port is told which right that is.
func TestBindAdvice(t *testing.T) {
	if runtime.GOOS != "linux" || !netio.Privileged(1) {
		t.Skip("port 1 needs no capability here")
	}
	if !relaytest.InChildCommand(t, func(cmd *exec.Cmd) {
		if os.Getuid() != 0 {
			return
		}
		path, err := exec.LookPath("setpriv")
		if err != nil {
			t.Skip("no setpriv, which takes the capability away from root")
		}
		cmd.Args = append([]string{path, "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"}, cmd.Args...)
		cmd.Path = path
	}) {
		return
	}
	s := NewSockets()
	for network, open := range map[string]func(netip.AddrPort, Options) error{
		"tcp": func(at netip.AddrPort, opts Options) error { _, err := s.TCP(at, opts); return err },
		"udp": func(at netip.AddrPort, opts Options) error { _, err := s.UDP(at, opts); return err },
	} {
		err := open(netip.MustParseAddrPort("127.0.0.1:1"), Options{})
		if err == nil || !strings.Contains(err.Error(), "permission denied: port 1 needs CAP_NET_BIND_SERVICE: run setcap") {
			t.Errorf("%s: %v", network, err)
		}
	}
	if advice := BindAdvice(65535); advice != "" {
		t.Errorf("port 65535: %s", advice)
	}
}
