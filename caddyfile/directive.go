package caddyfile

import (
	"errors"
	"fmt"
	"strings"
)

// Directive is a line of a Caddyfile with its block, and the comments that belong
// to it.
type Directive struct {
	Name    string // empty: only Above is written
	Args    []string
	Block   []Directive
	Above   []string // comment lines, without #
	Gap     bool     // an empty line precedes it
	Comment string   // the comment at the end of the line, without #; empty: none
}

// Directives returns the options that are set, in the order of the fields. Each
// option of a nested block is in the Block of the outer one, unless the short form
// has it as an argument.
func (c Config) Directives() []Directive {
	var list []Directive
	at := make(map[string]int) // by the name of an option with a block
	short := make(map[string]bool)
	for _, o := range orderedOptions {
		args, isSet := o.get(&c)
		if !isSet || short[o.name] {
			continue
		}
		d := Directive{Name: o.name, Args: args}
		if outer, inner, nested := strings.Cut(o.name, "."); nested {
			d.Name = inner
			list[at[outer]].Block = append(list[at[outer]].Block, d)
			continue
		}
		if o.bare != "" && len(args) == 1 && args[0] == o.bare {
			d.Args = nil
		}
		if o.short != "" {
			if value, isSet := o.block[o.short].get(&c); isSet {
				d.Args, short[o.name+"."+o.short] = value, true
			}
		}
		at[o.name] = len(list)
		list = append(list, d)
	}
	return list
}

// WriteCaddyfile writes directives as `caddy fmt` formats them, indented by tabs
// tabs. It returns an error for text that a Caddyfile cannot have.
func WriteCaddyfile(b *strings.Builder, tabs int, list []Directive) error {
	var problems []error
	for _, d := range list {
		problems = append(problems, d.write(b, strings.Repeat("\t", tabs), tabs))
	}
	return errors.Join(problems...)
}

func (d Directive) write(b *strings.Builder, indent string, tabs int) error {
	if d.Gap {
		b.WriteString("\n")
	}
	for _, text := range d.Above {
		b.WriteString(indent + commentLine(text) + "\n")
	}
	if d.Name == "" && d.Block == nil {
		return nil
	}
	line := d.Name
	var problems []error
	for _, arg := range d.Args {
		token, err := Token(arg)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", d.Name, err))
		}
		line = strings.TrimLeft(line+" "+token, " ")
	}
	if d.Block != nil {
		line = strings.TrimLeft(line+" {", " ")
	}
	comment := ""
	if d.Comment != "" {
		comment = commentLine(d.Comment)
	}
	if comment != "" && d.Block == nil {
		line += " " + comment
	}
	b.WriteString(indent + line + "\n")
	if d.Block != nil {
		if comment != "" { // caddy fmt keeps none after a brace
			b.WriteString(indent + "\t" + comment + "\n")
		}
		problems = append(problems, WriteCaddyfile(b, tabs+1, d.Block))
		b.WriteString(indent + "}\n")
	}
	return errors.Join(problems...)
}

// commentLine returns the text of a comment with its mark. Caddy replaces {$NAME} in
// comments too, so the mark of an environment variable is broken up.
func commentLine(text string) string {
	return strings.TrimRight("# "+strings.ReplaceAll(text, "{$", "{ $"), " ")
}

// Token returns text as one argument of a Caddyfile, in quotes if it needs them.
func Token(text string) (string, error) {
	if i := strings.Index(text, "{$"); i >= 0 && strings.Contains(text[i:], "}") {
		return "", fmt.Errorf("a Caddyfile cannot have the text %s, because it replaces {$NAME} by an environment variable", Quoted(text))
	}
	switch plain := text != "" && !strings.ContainsAny(text, " \t\r\n\v\f\u0085\u00a0\"`{}\\") && !strings.HasPrefix(text, "#") && !strings.HasPrefix(text, "<<"); {
	case plain && !strings.ContainsFunc(text, blankOrControl):
		return text, nil
	case strings.Contains(text, "\r"):
		return "", fmt.Errorf("a Caddyfile cannot have the text %s, because it drops carriage returns", Quoted(text))
	case !strings.HasSuffix(text, `\`) && !strings.Contains(text, `\"`):
		return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`, nil
	case !strings.Contains(text, "`"):
		return "`" + text + "`", nil
	}
	return "", fmt.Errorf("a Caddyfile cannot have the text %s, which needs both kinds of quotes", Quoted(text))
}
