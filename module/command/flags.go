package command

import (
	"errors"
	"fmt"
	"strings"

	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// backendFlag is the flag of the option backend, which has a name of its own.
const backendFlag = "to"

// optionFlag is the flag of an option of a relay. It implements pflag.Value.
type optionFlag struct {
	info   caddyfile.OptionInfo
	name   string
	values []string // as given
}

// addOptionFlags adds a flag for each option of a relay.
func addOptionFlags(cmd *cobra.Command) []*optionFlag {
	var all []*optionFlag
	for _, info := range caddyfile.AllOptions() {
		f := &optionFlag{info: info, name: strings.NewReplacer("_", "-", ".", "-").Replace(info.Name)}
		if info.Name == "backend" {
			f.name = backendFlag
		}
		cmd.Flags().VarPF(f, f.name, "", info.Usage).NoOptDefVal = info.Bare
		all = append(all, f)
	}
	return all
}

func (f *optionFlag) String() string { return "" } // help shows no default: the usage has it

func (f *optionFlag) Set(text string) error {
	if len(f.values) > 0 && !f.info.List {
		return errors.New("given twice")
	}
	f.values = append(f.values, text)
	return nil
}

// Type returns what the help shows for the value.
func (f *optionFlag) Type() string { return f.info.Value }

// arguments returns the values as the arguments that a Caddyfile would have. The
// elements of a list are separated by commas or blanks. Other options with several
// arguments are split like a line of a Caddyfile.
func (f *optionFlag) arguments() (args []string, err error) {
	for _, value := range f.values {
		switch {
		case value == f.info.Bare:
		case f.info.List:
			args = append(args, strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })...)
		case f.info.Many:
			tokens, err := cfile.Tokenize([]byte(value), "")
			if err != nil {
				return nil, err
			}
			for _, token := range tokens {
				args = append(args, token.Text)
			}
		default:
			args = append(args, value)
		}
	}
	return args, nil
}

// configOf returns the config of the flags that were given. The error has a line for
// each flag that is not valid.
func configOf(flags []*optionFlag) (config caddyfile.Config, err error) {
	var problems []error
	for _, f := range flags {
		if f.values == nil {
			continue
		}
		args, err := f.arguments()
		if err == nil {
			err = config.Set(f.info.Name, args...)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", f.name, err))
		}
	}
	return config, errors.Join(problems...)
}
