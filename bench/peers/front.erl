%% The connections of the Erlang peer, a line each way, and its control: a directory on standard input is a release to change to.
-module(front).
-export([main/1]).

main([Port]) ->
  process_flag(trap_exit, true),
  {ok, _} = counter:start_link(),
  {ok, Listener} = gen_tcp:listen(list_to_integer(atom_to_list(Port)), [binary, {packet, line}, {active, false}, {ip, {127, 0, 0, 1}}, {reuseaddr, true}, {nodelay, true}]),
  spawn(fun() -> accept(Listener) end),
  control().

accept(Listener) ->
  {ok, Socket} = gen_tcp:accept(Listener),
  Owner = spawn(fun() -> receive go -> serve(Socket) end end),
  ok = gen_tcp:controlling_process(Socket, Owner),
  Owner ! go,
  accept(Listener).

serve(Socket) ->
  case gen_tcp:recv(Socket, 0) of
    {ok, _} ->
      {Release, Count} = gen_server:call(counter, next, 30000),
      ok = gen_tcp:send(Socket, io_lib:format("~w ~w~n", [Release, Count])),
      serve(Socket);
    {error, _} -> ok
  end.

%% As a release handler does it: suspend the process, load the code, let it change its state, resume it.
control() ->
  case io:get_line("") of
    eof -> halt(0);
    Line ->
      Directory = string:trim(Line),
      code:purge(counter),
      ok = sys:suspend(counter),
      {module, counter} = code:load_abs(filename:join(Directory, "counter")),
      ok = sys:change_code(counter, counter, undefined, []),
      ok = sys:resume(counter),
      io:format("changed~n"),
      control()
  end.
