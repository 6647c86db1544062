package command

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// flagValues has a value for each flag of an option, and the JSON that it becomes.
var flagValues = map[string]struct{ value, want string }{
	"to":                     {"a:80,b:80", `{"backends":["a:80","b:80"]}`},
	"name":                   {"a b", `{"name":"a b"}`},
	"connect-timeout":        {"1s", `{"connect_timeout":1000000000}`},
	"idle-timeout":           {"1s", `{"idle_timeout":1000000000}`},
	"cooldown":               {"1s", `{"cooldown":1000000000}`},
	"dns-ttl":                {"record 1s 5m", `{"dns_ttl":"record 1s 5m"}`},
	"resolvers":              {"192.0.2.1 192.0.2.2", `{"resolvers":["192.0.2.1","192.0.2.2"]}`},
	"prefer":                 {"ipv4", `{"prefer":"ipv4"}`},
	"only":                   {"ipv6", `{"only":"ipv6"}`},
	"health-check":           {"on", `{"health_check":{}}`},
	"health-check-network":   {"udp", `{"health_check":{"network":"udp"}}`},
	"health-check-interval":  {"1s", `{"health_check":{"interval":1000000000}}`},
	"health-check-timeout":   {"1s", `{"health_check":{"timeout":1000000000}}`},
	"health-check-rise":      {"3", `{"health_check":{"rise":3}}`},
	"health-check-port":      {"81", `{"health_check":{"port":81}}`},
	"health-check-send":      {"a b", `{"health_check":{"send":"a b"}}`},
	"health-check-expect":    {"a b", `{"health_check":{"expect":"a b"}}`},
	"health-check-http":      {"/a 204 3xx", `{"health_check":{"http":"/a","http_status":["204","3xx"]}}`},
	"health-check-host":      {"a", `{"health_check":{"host":"a"}}`},
	"health-check-redis":     {"master", `{"health_check":{"redis":"master"}}`},
	"health-check-postgres":  {"on", `{"health_check":{"postgres":true}}`},
	"health-check-dns":       {"a", `{"health_check":{"dns":"a"}}`},
	"failback":               {"move", `{"failback":"move"}`},
	"event-hook":             {`echo "a b"`, `{"event_hook":{"command":"echo","args":["a b"]}}`},
	"event-hook-events":      {"backend_failed", `{"event_hook":{"command":"x","events":["backend_failed"]}}`},
	"event-hook-timeout":     {"1s", `{"event_hook":{"command":"x","timeout":1000000000}}`},
	"hedge":                  {"1s", `{"hedge":1000000000}`},
	"first-byte-timeout":     {"1s", `{"first_byte_timeout":1000000000}`},
	"rescue":                 {"1KiB", `{"rescue":1024}`},
	"hold":                   {"1s", `{"hold":1000000000}`},
	"on-down":                {"cut", `{"on_down":"cut"}`},
	"udp-reply-timeout":      {"1s", `{"udp_reply_timeout":1000000000}`},
	"udp-responses":          {"1", `{"udp_responses":1}`},
	"allow":                  {"10.0.0.0/8,::1", `{"allow":["10.0.0.0/8","::1"]}`},
	"deny":                   {"10.1.0.0/16", `{"deny":["10.1.0.0/16"]}`},
	"max-connections":        {"1", `{"max_connections":1}`},
	"max-connections-per-ip": {"1", `{"max_connections_per_ip":1}`},
	"max-udp-sessions":       {"1", `{"max_udp_sessions":1}`},
	"grace-period":           {"1s", `{"grace_period":1000000000}`},
	"shutdown-timeout":       {"1s", `{"shutdown_timeout":1000000000}`},
	"keepalive":              {"off", `{"keepalive":0}`},
	"access-log":             {"all", `{"access_log":"all"}`},
	"proxy-protocol":         {"v2", `{"proxy_protocol":"v2"}`},
	"proxy-protocol-udp":     {"every", `{"proxy_protocol_udp":"every"}`},
}

// TestEveryOptionHasAFlag sets each flag alone, as `caddy relay run` does.
func TestEveryOptionHasAFlag(t *testing.T) {
	var names []string
	for _, f := range addOptionFlags(&cobra.Command{}) {
		names = append(names, f.name)
	}
	if want := slices.Sorted(maps.Keys(flagValues)); !slices.Equal(slices.Sorted(slices.Values(names)), want) {
		t.Fatalf("the flags are %v\nthe test has %v", names, want)
	}
	if len(names) != len(caddyfile.AllOptions()) {
		t.Errorf("%d flags for %d options", len(names), len(caddyfile.AllOptions()))
	}
	for name, test := range flagValues {
		cmd := &cobra.Command{}
		flags := addOptionFlags(cmd)
		args := []string{"--" + name + "=" + test.value}
		if strings.HasPrefix(name, "event-hook-") {
			args = append(args, "--event-hook=x") // options of its block need the command
		}
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		got, err := configOf(flags)
		var want caddyfile.Config
		if jsonErr := json.Unmarshal([]byte(test.want), &want); jsonErr != nil {
			t.Fatal(jsonErr)
		}
		text, _ := json.Marshal(got)
		if back, _ := json.Marshal(want); err != nil || !reflect.DeepEqual(text, back) {
			t.Errorf("%v: got %s, %v, want %s", args, text, err, back)
		}
	}
}
