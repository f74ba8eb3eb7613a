package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/config"
	"github.com/spf13/cobra"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Print and check configurations", Args: noArgs,
		Long: "A setting comes from a flag, a SLACKER_ variable, the file or its default, in this order.\n" + exitHelp,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "default", Short: "Print a commented configuration file with the defaults", Args: noArgs,
			Long:    "Default prints a configuration file that holds every setting, what it means and its default.",
			Example: "  slackerd config default > /etc/slacker/slackerd.yaml",
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprint(cmd.OutOrStdout(), config.Template())
				return err
			},
		},
		newConfigCheck())
	return cmd
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check", Short: "Check a configuration and print what is in effect", Args: noArgs,
		Long: "Check reads the configuration as serve would, reports every fault of it, one per line, and otherwise prints\n" +
			"each setting, its value and where it comes from. It opens nothing.\n" + exitHelp,
		Example: "  slackerd config check --config /etc/slacker/slackerd.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			for _, v := range append([]config.Value{{Key: "KEY", Text: "VALUE", Source: "FROM"}}, l.Values...) {
				if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", v.Key, v.Text, v.Source); err != nil {
					return block.Errorf(block.IO, "print: %w", err)
				}
			}
			return w.Flush()
		},
	}
	addConfigFlags(cmd)
	return cmd
}
