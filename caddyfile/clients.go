package caddyfile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// privateRanges is a word for the ranges that it has in Caddy's own matchers: RFC
// 1918, RFC 4193 and loopback.
const privateRanges = "private_ranges"

var privatePrefixes = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("fd00::/8"),
	netip.MustParsePrefix("::1/128"),
}

// parsePrefixes parses the client addresses of allow or deny: prefixes such as
// 10.0.0.0/8, single addresses and the word private_ranges, separated by white
// space or commas. It is often the content of a file: # begins a comment that
// extends to the end of its line.
func parsePrefixes(text string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for word := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r <= ' ' }) {
			if word == privateRanges {
				list = append(list, privatePrefixes...)
				continue
			}
			prefix, err := parsePrefix(word)
			if err != nil {
				return nil, err
			}
			list = append(list, prefix)
		}
	}
	return list, nil
}

// parsePrefix parses a prefix or an address. Bits after the prefix do not count, and
// an IPv4-mapped IPv6 prefix is one of IPv4, as clients' addresses are.
func parsePrefix(word string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(word)
	if addr, isAddr := netip.ParseAddr(word); isAddr == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("must be an address, a prefix such as 10.0.0.0/8 or %s, got %q", privateRanges, word)
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q covers more than the IPv4-mapped addresses; write 0.0.0.0/0 for all of IPv4", word)
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// checkPrefixes returns the error of the first text that is not valid.
func checkPrefixes(texts []string) error {
	for _, text := range texts {
		if _, err := parsePrefixes(text); err != nil {
			return err
		}
	}
	return nil
}

// checkAllow is checkPrefixes for allow. A list without an address, such as a file
// with comments only, would allow all.
func checkAllow(texts []string) error {
	err := checkPrefixes(texts)
	if err == nil && len(texts) > 0 && len(prefixes(texts)) == 0 {
		err = errors.New("lists no address; to refuse all clients, write deny 0.0.0.0/0 ::/0")
	}
	return err
}

// prefixes returns what valid texts list, sorted and without duplicates.
func prefixes(texts []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		list, _ := parsePrefixes(text)
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(all)
}

func addAllow(c *Config, args []string) error {
	c.Allow = append(c.Allow, args...)
	return checkWritten(args)
}

func addDeny(c *Config, args []string) error {
	c.Deny = append(c.Deny, args...)
	return checkWritten(args)
}

// checkWritten is checkPrefixes for texts that may have placeholders.
func checkWritten(texts []string) error {
	return checkPrefixes(slices.DeleteFunc(slices.Clone(texts), placeholder.MatchString))
}

// maxShownPrefixes is how many prefixes the text of a setting shows.
const maxShownPrefixes = 8

// clientsSetting returns the setting allow or deny. none is the text of an empty list.
func clientsSetting(field string, list []netip.Prefix, none string) setting {
	s := setting{field, fmt.Sprint(list), none}
	if len(list) == 0 {
		return s
	}
	var texts []string
	for _, prefix := range list[:min(len(list), maxShownPrefixes)] {
		texts = append(texts, prefix.String())
	}
	s.text = strings.Join(texts, ", ")
	if more := len(list) - maxShownPrefixes; more > 0 {
		s.text += fmt.Sprintf(" and %d more", more)
	}
	return s
}
