package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"${enum}."`
}

func (completionCmd) Help() string {
	return `Examples:
  source <(warmtier completion bash)
  warmtier completion zsh > "${fpath[1]}/_warmtier"
  warmtier completion fish > ~/.config/fish/completions/warmtier.fish`
}

func (c *completionCmd) Run(a *app, k *kong.Kong) (err error) {
	script := fishScript(k)
	if c.Shell != "fish" {
		script = bashScript(k)
	}
	if c.Shell == "zsh" {
		script = "#compdef warmtier\nautoload -U +X bashcompinit && bashcompinit\n" + script
	}
	_, err = fmt.Fprint(a.out, script)
	return err
}

// values says what may follow a flag, or stand where an argument is.
type values struct {
	words []string // one of these
	files bool     // or the name of a file
	dirs  bool     // or of a directory
}

// valuesOf goes by what the help says.
func valuesOf(v *kong.Value) values {
	if v.Name == "file" || v.Name == "source" {
		return values{files: true}
	}
	if v.Enum != "" {
		return values{words: strings.Split(v.Enum, ",")}
	}
	if v.Flag != nil {
		return values{files: v.Flag.PlaceHolder == "FILE", dirs: v.Flag.PlaceHolder == "DIR"}
	}
	return values{}
}

func flagsOf(command *kong.Node) (flags []*kong.Flag) {
	for _, flag := range append(slices.Clone(command.Flags), command.Parent.Flags...) {
		if !flag.Hidden {
			flags = append(flags, flag)
		}
	}
	return flags
}

// bashScript offers commands, then flags, the values of flags, and files.
func bashScript(k *kong.Kong) string {
	var names, global []string
	for _, flag := range k.Model.Flags {
		global = append(global, "--"+flag.Name)
	}
	var ofCommand, ofFlag strings.Builder
	for _, command := range k.Model.Children {
		names = append(names, command.Name)
		var flags, words []string
		for _, flag := range flagsOf(command) {
			flags = append(flags, "--"+flag.Name)
			pattern := command.Name + ":--" + flag.Name
			if flag.Short != 0 {
				pattern += "|" + command.Name + ":-" + string(flag.Short)
			}
			switch v := valuesOf(flag.Value); {
			case v.dirs:
				fmt.Fprintf(&ofFlag, "    %s) kind=dirs ;;\n", pattern)
			case !flag.IsBool():
				fmt.Fprintf(&ofFlag, "    %s) kind=value words='%s' ;;\n", pattern, strings.Join(v.words, " "))
			}
		}
		if command.Name == "help" {
			words = append(words, "COMMANDS")
		}
		for _, argument := range command.Positional {
			words = append(words, valuesOf(argument).words...)
		}
		fmt.Fprintf(&ofCommand, "      %s) command=%[1]s flags='%s' words='%s'; break ;;\n", command.Name,
			strings.Join(flags, " "), strings.Join(words, " "))
	}
	script := strings.NewReplacer("OFCOMMAND\n", ofCommand.String(), "OFFLAG\n", ofFlag.String(),
		"FLAGS", strings.Join(global, " ")).Replace(bashCompletion)
	return strings.ReplaceAll(script, "COMMANDS", strings.Join(names, " "))
}

// bashCompletion becomes the script. Where it offers nothing, the shell offers files.
const bashCompletion = `_warmtier() {
  local IFS=$' \t\n' current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
  local word command='' kind='' flags='FLAGS' words='COMMANDS'
  [[ $current == '=' ]] && current=''
  [[ $previous == '=' ]] && previous=${COMP_WORDS[COMP_CWORD-2]}
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
OFCOMMAND
    esac
  done
  case $command:$previous in
OFFLAG
  esac
  [[ -z $kind && $current == -* ]] && words=$flags
  IFS=$'\n'
  if [[ $kind == dirs ]]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -d -- "$current"))
  else
    COMPREPLY=($(IFS=' '; compgen -W "$words" -- "$current"))
  fi
}
complete -o default -F _warmtier warmtier
`

// fishScript says the same in fish's way.
func fishScript(k *kong.Kong) string {
	var b strings.Builder
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" }
	for _, command := range k.Model.Children {
		fmt.Fprintf(&b, "complete -c warmtier -n __fish_use_subcommand -f -a %s -d %s\n", command.Name, quote(command.Help))
		of := "complete -c warmtier -n '__fish_seen_subcommand_from " + command.Name + "'"
		for _, flag := range flagsOf(command) {
			line := of + " -l " + flag.Name
			if flag.Short != 0 {
				line += " -s " + string(flag.Short)
			}
			switch v := valuesOf(flag.Value); {
			case v.dirs:
				line += ` -xa "(__fish_complete_directories)"`
			case v.files:
				line += " -r"
			case len(v.words) > 0:
				line += " -xa " + quote(strings.Join(v.words, " "))
			case !flag.IsBool():
				line += " -x"
			}
			fmt.Fprintln(&b, line, "-d", quote(flag.Help))
		}
		for _, argument := range command.Positional {
			if v := valuesOf(argument); len(v.words) > 0 {
				fmt.Fprintln(&b, of, "-f -a", quote(strings.Join(v.words, " ")))
			}
		}
	}
	return b.String()
}
