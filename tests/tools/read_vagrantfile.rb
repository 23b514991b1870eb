# frozen_string_literal: true

# Runs a Vagrantfile without Vagrant and prints what it configures, as JSON: machine -> box and scripts.
require 'json'

# Takes any setting; keeps the few that are asked for.
class Settings
  attr_reader :machines, :scripts

  def initialize
    @machines = {}
    @scripts = {}
    @values = {}
  end

  def vm
    self
  end

  def define(name, **_options)
    node = Settings.new
    yield node
    @machines[name] = node
  end

  def provision(name, **options)
    @scripts[name] = options.fetch(:inline)
  end

  def provider(_name)
    yield self
  end

  def synced_folder(from, to, **_options)
    @values['synced'] = [from, to]
  end

  def [](name)
    @values[name]
  end

  def method_missing(name, *arguments)
    return super unless name.end_with?('=')

    @values[name.to_s.delete_suffix('=')] = arguments.first
  end

  def respond_to_missing?(name, _all = false)
    name.end_with?('=')
  end
end

# As Vagrant's own, for its configuration's second version.
module Vagrant
  def self.configure(version)
    raise "version #{version}" unless version == '2'

    settings = Settings.new
    yield settings
    machines = settings.machines.transform_values { |node| { box: node['box'], scripts: node.scripts } }
    puts JSON.generate(synced: settings['synced'], machines: machines)
  end
end

load ARGV.fetch(0)
