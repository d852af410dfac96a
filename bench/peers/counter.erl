%% The state of the Erlang peer: a gen_server that counts. Compiled twice, with two values of RELEASE.
-module(counter).
-behaviour(gen_server).
-vsn(?RELEASE).
-export([start_link/0, init/1, handle_call/3, handle_cast/2, code_change/3]).

start_link() -> gen_server:start_link({local, ?MODULE}, ?MODULE, 0, []).
init(Count) -> {ok, Count}.
handle_call(next, _From, Count) -> {reply, {?RELEASE, Count + 1}, Count + 1}.
handle_cast(_, Count) -> {noreply, Count}.
code_change(_OldRelease, Count, _Extra) -> {ok, Count}.
