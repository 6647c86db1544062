package caddyfile

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestDNSTTLInJSON(t *testing.T) {
	for text, want := range map[string]DNSLifetime{
		`{}`:                            {Fixed: time.Hour},
		`{"dns_ttl": null}`:             {Fixed: time.Hour},
		`{"dns_ttl": "90s"}`:            {Fixed: 90 * time.Second},
		`{"dns_ttl": 90000000000}`:      {Fixed: 90 * time.Second},
		`{"dns_ttl": "record"}`:         {Min: 5 * time.Second, Max: time.Hour},
		`{"dns_ttl": "record 30s"}`:     {Min: 30 * time.Second, Max: time.Hour},
		`{"dns_ttl": "record 2h"}`:      {Min: 2 * time.Hour, Max: 2 * time.Hour},
		`{"dns_ttl": "record 1s 5m"}`:   {Min: time.Second, Max: 5 * time.Minute},
		`{"dns_ttl": "record 5m  10m"}`: {Min: 5 * time.Minute, Max: 10 * time.Minute},
	} {
		var c Config
		relaytest.Check(t, json.Unmarshal([]byte(text), &c))
		relaytest.Check(t, c.DNSTTL.check())
		if got := c.DNSTTL.lifetime(); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
		written, err := json.Marshal(c)
		relaytest.Check(t, err)
		var again Config
		relaytest.Check(t, json.Unmarshal(written, &again))
		if again.DNSTTL != c.DNSTTL {
			t.Errorf("%s: written as %s, which is %v", text, written, again.DNSTTL)
		}
	}
	for text, want := range map[string]string{
		`{"dns_ttl": 0}`:                 "dns_ttl: must be greater than zero, got 0s",
		`{"dns_ttl": "0"}`:               "dns_ttl: must be greater than zero, got 0s",
		`{"dns_ttl": "soon"}`:            `dns_ttl: must be a duration or "record MIN MAX", got "soon"`,
		`{"dns_ttl": "records"}`:         `dns_ttl: must be a duration such as 5s, 10m or 1h, or record, got "records"`,
		`{"dns_ttl": "record x"}`:        `dns_ttl: must be a duration such as 5s, 10m or 1h, or record, got "x"`,
		`{"dns_ttl": "record 1s 2s 3s"}`: "dns_ttl: record has two bounds at most, as in: record 5s 1h",
		`{"dns_ttl": true}`:              `dns_ttl: must be a duration or "record MIN MAX", got true`,
	} {
		if err := json.Unmarshal([]byte(text), new(Config)); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}

// Flags and YAML files may have all arguments in one text.
func TestDNSTTLInOneText(t *testing.T) {
	for _, args := range [][]string{{"record 1s 5m"}, {"record", "1s", "5m"}} {
		var c Config
		relaytest.Check(t, c.Set("dns_ttl", args...))
		if want := (DNSTTL{Record: true, Min: time.Second, Max: 5 * time.Minute}); c.DNSTTL != want {
			t.Errorf("%q: got %v, want %v", args, c.DNSTTL, want)
		}
	}
	if err := new(Config).Set("dns_ttl", " "); err == nil {
		t.Error("an empty text was accepted")
	}
}
