package module_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// validate does what `caddy validate` does with a layer4 block of a Caddyfile: it
// provisions the config, but opens no listener.
func validate(t *testing.T, layer4 string) error {
	t.Helper()
	text := "{\n admin off\n persist_config off\n layer4 {\n" + layer4 + "\n}\n}\n"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	relaytest.Check(t, err)
	var config caddy.Config
	relaytest.Check(t, caddy.StrictUnmarshalJSON(adapted, &config))
	return caddy.Validate(&config)
}

// Addresses of our networks that cannot be listened on are rejected without
// opening a listener.
func TestValidateRejectsAddresses(t *testing.T) {
	server := func(addrs string) string { return block(addrs, "127.0.0.1:9") }
	for config, want := range map[string]string{
		server("relay+tcp/127.0.0.1"):       `layer4 server "srv0" lists relay+tcp/127.0.0.1: a port from 1 to 65535 is needed`,
		server("relay+udp/:0"):              `layer4 server "srv0" lists relay+udp/:0: a port from 1 to 65535 is needed`,
		server("relay+udp/:0-9"):            `lists relay+udp/:0-9: a port from 1 to 65535 is needed`,
		server("relay+tcp4/127.0.0.1:8001"): `lists relay+tcp4/127.0.0.1:8001: unknown network relay+tcp4, use relay+tcp or relay+udp`,
		server("relay/127.0.0.1:8001"):      `unknown network relay, use relay+tcp or relay+udp`,

		server("relay+tcp/:8001 relay+tcp/:8001"):                                        `relay+tcp/[::]:8001 is listed more than once: by layer4 server "srv0" as relay+tcp/:8001 and by`,
		server("relay+tcp/:8001") + server("relay+tcp/[::]:8001"):                        `by layer4 server "srv0" as relay+tcp/:8001 and by layer4 server "srv1" as relay+tcp/[::]:8001; list it in one`,
		server("relay+udp/127.0.0.1:8001") + server("Relay+Udp/[::ffff:127.0.0.1]:8001"): `relay+udp/127.0.0.1:8001 is listed more than once`,
		server("relay+tcp/:8001-8100") + server("relay+tcp/:8050-8200"):                  `relay+tcp/[::]:8050 is listed more than once`,
		server("relay+tcp/localhost:8001") + server("relay+tcp/LOCALHOST:8001"):          `relay+tcp/localhost:8001 is listed more than once`,
		server("relay+tcp/:8001 relay+udp/:8001"):                                        "",
		server("relay+tcp/127.0.0.1:8001") + server("relay+tcp/127.0.0.2:8001"):          "",
		server("relay+tcp/127.0.0.1:8001") + server("relay+tcp/:8002-8009"):              "",
	} {
		err := validate(t, config)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", config, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want it to contain %q", config, err, want)
		case want != "" && strings.Count(err.Error(), "is listed more than once") > 1:
			t.Errorf("%s: reported more than once: %v", config, err)
		}
	}
}

// All wrong addresses of a config are reported together.
func TestValidateReportsAllAddresses(t *testing.T) {
	err := validate(t, block("relay+tcp/127.0.0.1 relay+udp/:0", "127.0.0.1:9")+block("relay+udp6/:1", "127.0.0.1:9"))
	for _, want := range []string{"lists relay+tcp/127.0.0.1: ", "lists relay+udp/:0: ", `"srv1" lists relay+udp6/:1: `} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to contain %q", err, want)
		}
	}
}
