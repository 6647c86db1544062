package caddyfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The bounds of the TTL of records that dns_ttl record has if none are written.
const (
	DefaultMinTTL = 5 * time.Second
	DefaultMaxTTL = time.Hour
)

// DNSTTL is the option dns_ttl: a duration, or "record" with bounds. In JSON, it is a
// duration, or the text that a Caddyfile has, such as "record 5s 1h". The zero value
// is the default.
type DNSTTL struct {
	Fixed    time.Duration // of all answers; 0: that of the records
	Record   bool          // the lifetime is the TTL of the records
	Min, Max time.Duration // with Record: bounds of the TTL
}

// DNSLifetime is the effective dns_ttl.
type DNSLifetime struct {
	Fixed    time.Duration // 0: the TTL of the records, from Min to Max
	Min, Max time.Duration
}

// String returns the lifetime as a Caddyfile has it.
func (l DNSLifetime) String() string {
	if l.Fixed > 0 {
		return FormatDuration(l.Fixed)
	}
	return fmt.Sprintf("record %s %s", FormatDuration(l.Min), FormatDuration(l.Max))
}

// IsZero reports whether the option is absent.
func (d DNSTTL) IsZero() bool { return d == DNSTTL{} }

// lifetime returns the setting with defaults filled in.
func (d DNSTTL) lifetime() DNSLifetime {
	switch {
	case d.Record:
		return DNSLifetime{Min: d.Min, Max: d.Max}
	case d.IsZero():
		return DNSLifetime{Fixed: DefaultDNSTTL}
	}
	return DNSLifetime{Fixed: d.Fixed}
}

// parse reads the arguments of the option in a Caddyfile.
func (d *DNSTTL) parse(args []string) error {
	if args[0] != "record" {
		if len(args) > 1 {
			return errors.New("only record has bounds, as in: record 5s 1h")
		}
		return parseTTL(&d.Fixed, args[0])
	}
	if len(args) > 3 {
		return errors.New("record has two bounds at most, as in: record 5s 1h")
	}
	d.Record, d.Min, d.Max = true, DefaultMinTTL, DefaultMaxTTL
	if len(args) > 1 {
		if err := parseTTL(&d.Min, args[1]); err != nil {
			return err
		}
		d.Max = max(d.Max, d.Min)
	}
	if len(args) > 2 {
		if err := parseTTL(&d.Max, args[2]); err != nil {
			return err
		}
	}
	return nil
}

func parseTTL(d *time.Duration, text string) (err error) {
	if *d, err = caddy.ParseDuration(text); err != nil {
		return fmt.Errorf("must be a duration such as 5s, 10m or 1h, or record, got %q", text)
	}
	return nil
}

// check reports a value that is out of range.
func (d DNSTTL) check() error {
	check := durationSetting{field: "dns_ttl", min: minDNSTTL}.checkDecoded
	switch {
	case !d.Record && d.IsZero():
		return nil
	case !d.Record:
		return check(d.Fixed)
	case check(d.Min) != nil:
		return check(d.Min)
	case check(d.Max) != nil:
		return check(d.Max)
	case d.Min > d.Max:
		return fmt.Errorf("the lower bound must not be above the upper one, got %s and %s", FormatDuration(d.Min), FormatDuration(d.Max))
	}
	return nil
}

// setDNSTTL sets the option from a Caddyfile, or from one text with all arguments.
func setDNSTTL(c *Config, args []string) error {
	var d DNSTTL
	args = strings.Fields(strings.Join(args, " "))
	if len(args) == 0 {
		return errors.New("must not be empty")
	}
	if err := d.parse(args); err != nil {
		return err
	}
	if !d.Record && d.Fixed == 0 {
		return errors.New("must be greater than zero, got 0s")
	}
	if err := d.check(); err != nil {
		return err
	}
	c.DNSTTL = d
	return nil
}

// getDNSTTL is the inverse of setDNSTTL.
func getDNSTTL(c *Config) (args []string, isSet bool) {
	return strings.Fields(c.DNSTTL.lifetime().String()), !c.DNSTTL.IsZero()
}

// MarshalJSON implements json.Marshaler.
func (d DNSTTL) MarshalJSON() ([]byte, error) {
	if d.Record {
		return json.Marshal(d.lifetime().String())
	}
	return json.Marshal(d.Fixed)
}

// UnmarshalJSON implements json.Unmarshaler. A fixed zero is rejected here, because it
// is the default otherwise.
func (d *DNSTTL) UnmarshalJSON(text []byte) error {
	*d = DNSTTL{}
	var words string
	if json.Unmarshal(text, &words) == nil && strings.HasPrefix(words, "record") {
		if err := d.parse(strings.Fields(words)); err != nil {
			return fmt.Errorf("dns_ttl: %w", err)
		}
		return nil
	}
	var fixed caddy.Duration
	if err := fixed.UnmarshalJSON(text); err != nil {
		return fmt.Errorf(`dns_ttl: must be a duration or "record MIN MAX", got %s`, text)
	}
	if fixed == 0 && string(text) != "null" {
		return errors.New("dns_ttl: must be greater than zero, got 0s")
	}
	d.Fixed = time.Duration(fixed)
	return nil
}
