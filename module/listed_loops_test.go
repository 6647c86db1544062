package module_test

import (
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// named returns a layer4 server with one named relay.
func named(addrs, name, backends string) string {
	return addrs + " {\n route {\n relay " + backends + " {\n name " + name + "\n }\n }\n}\n"
}

// A relay that leads back to itself, as its addresses are written, is rejected.
func TestValidateRejectsLoops(t *testing.T) {
	ab := func(backendOfA, backendOfB string) string {
		return named("relay+tcp/:8001", "a", backendOfA) + named("relay+tcp/:8002", "b", backendOfB)
	}
	for _, test := range []struct{ config, want string }{
		{named("relay+tcp/127.0.0.1:8001", "a", "127.0.0.1:8001"), `service "a": backends: "127.0.0.1:8001" leads back to service "a": layer4 server "srv0" lists relay+tcp/127.0.0.1:8001`},
		{named("relay+udp/:8001", "a", "[::1]:8001"), `"[::1]:8001" leads back to service "a": layer4 server "srv0" lists relay+udp/:8001`},
		{named("relay+tcp/0.0.0.0:8001", "a", "127.0.0.2:8001"), `"127.0.0.2:8001" leads back to service "a"`},
		{named("relay+tcp/:8001", "a", "0.0.0.0:8001"), `"0.0.0.0:8001" leads back`},
		{named("relay+tcp/127.0.0.1:8001", "a", "0.0.0.0:8001"), `"0.0.0.0:8001" leads back`},
		{named("relay+tcp/192.0.2.1:8001", "a", "10.0.0.1:80 192.0.2.1:8001"), `"192.0.2.1:8001" leads back`},
		{named("relay+tcp/:8001", "a", "localhost:8001"), `"localhost:8001" leads back`},
		{named("relay+tcp/Relay.test:8001", "a", "relay.TEST:8001"), `"relay.TEST:8001" leads back`},
		{named("tcp/:8001", "a", "127.0.0.1:8001"), `lists tcp/:8001`},
		{named("udp4/:8001", "a", "127.0.0.1:8001"), `lists udp4/:8001`},
		{named("tcp6/:8001", "a", "[::1]:8001"), `lists tcp6/:8001`},
		{named("relay+tcp/:8000-8100", "a", "127.0.0.1:8050"), `lists relay+tcp/:8000-8100`},
		{named("relay+tcp/:1-65535", "a", "127.0.0.1:8050"), `lists relay+tcp/:1-65535`},
		{named("relay+tcp/:8001 relay+tcp/:8002", "a", "127.0.0.1:8002"), `lists relay+tcp/:8002`},
		{named("tcp/:8001", "a", "{env.RELAY_TEST_BACKEND}"), `"127.0.0.1:8001" leads back`},
		{"relay+tcp/:8001 {\n route {\n subroute {\n route {\n relay 127.0.0.1:8001\n }\n }\n }\n}\n", `service "127.0.0.1:8001": backends: "127.0.0.1:8001" leads back`},
		{ab("127.0.0.1:8002", "127.0.0.1:8001"), `service "a": backends: "127.0.0.1:8002" leads back to service "a": layer4 server "srv1" lists relay+tcp/:8002, its service "b" has the backend "127.0.0.1:8001", and layer4 server "srv0" lists relay+tcp/:8001`},
		{ab("10.0.0.1:80 127.0.0.1:8002", "10.0.0.1:80 [::1]:8001"), `service "a": backends: "127.0.0.1:8002" leads back`},

		// No loop, or none that the addresses show.
		{ab("127.0.0.1:8002", "10.0.0.1:80"), ""},
		{ab("10.0.0.1:80", "127.0.0.1:8001"), ""},
		{named("relay+tcp/:8001", "a", "127.0.0.1:8002") + named("relay+tcp/:8002", "b", "127.0.0.1:8003") + named("relay+tcp/:8003", "c", "10.0.0.1:80"), ""},
		{named("relay+tcp/:8001", "a", "127.0.0.1:8002") + named("relay+udp/:8002", "b", "127.0.0.1:8001"), ""},
		{named("relay+tcp/127.0.0.1:8001", "a", "127.0.0.2:8001"), ""},
		{named("relay+tcp/0.0.0.0:8001", "a", "[::1]:8001"), ""},
		{named("relay+tcp/0.0.0.0:8001", "a", "localhost:8001"), ""},
		{named("relay+tcp/:8001", "a", "192.0.2.1:8001 relay.test:8001"), ""},
		{named("relay+tcp/192.0.2.1:8001", "a", "127.0.0.1:8001"), ""},
		{named("tcp6/:8001", "a", "127.0.0.1:8001"), ""}, // the socket has no IPv4 address
		{named("udp6/[::]:8001", "a", "127.0.0.1:8001 0.0.0.0:8001 localhost:8001"), ""},
		{"relay+tcp/relay.test:8001 {\n route {\n relay relay.test:8001 {\n resolvers 192.0.2.53\n }\n }\n}\n", ""}, // other name servers may have another address
		{named("unix//run/a.sock", "a", "127.0.0.1:8001"), ""},
	} {
		t.Setenv("RELAY_TEST_BACKEND", "127.0.0.1:8001")
		err := validate(t, test.config)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.config, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: error %v, want it to contain %q", test.config, err, test.want)
		case test.want != "" && strings.Count(err.Error(), "leads back") > 1:
			t.Errorf("%s: reported more than once: %v", test.config, err)
		}
	}
}

// Each service of a loop of three is named, and other loops are reported too.
func TestValidateReportsAllLoops(t *testing.T) {
	err := validate(t, named("relay+tcp/:8001", "a", "127.0.0.1:8002")+
		named("relay+tcp/:8002", "b", "127.0.0.1:8003")+
		named("relay+tcp/:8003", "c", "127.0.0.1:8001")+
		named("relay+tcp/:8004", "d", "127.0.0.1:8004"))
	for _, want := range []string{`service "a"`, `service "b"`, `service "c"`, `"127.0.0.1:8004" leads back to service "d"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to contain %q", err, want)
		}
	}
}

// A reload to a config with a loop is rejected, and the running config stays.
func TestReloadRejectsLoop(t *testing.T) {
	addr, backend := freeAddr(t), ""
	backend, _ = echoTCP(t, "echo")
	good := named("relay+tcp/"+addr, serviceAt(addr), backend)
	s := start(t, good)
	if err := s.reload(named("relay+tcp/"+addr, serviceAt(addr), addr)); err == nil || !strings.Contains(err.Error(), "leads back to service") {
		t.Errorf("error %v", err)
	}
	if got := ask(t, dial(t, "tcp", addr), "hi"); got != "echo hi" {
		t.Errorf("answer %q", got)
	}
	relaytest.Check(t, s.reload(good))
}
