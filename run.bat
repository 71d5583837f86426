@echo off
rem The work of `make run` on Windows: sets up .venv and the model, then starts the chat. Not yet tried on a real Windows.
rem   set PYTHON=...       the Python to make .venv with (3.11 or newer), before the first run
rem   set TORCH_INDEX=URL  a package index to take torch from, for example one with CUDA builds, before the first run
rem Arguments are passed on: run.bat --temperature 0
setlocal
cd /d "%~dp0"
if not defined PYTHON set "PYTHON=py -3"
set "EXTRA="
if defined TORCH_INDEX set "EXTRA=--extra-index-url %TORCH_INDEX%"

if exist .venv\ready goto model
%PYTHON% -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>nul
if errorlevel 1 goto nopython
echo Setting up in .venv, once. To be downloaded: Python packages, about 70 MB, and torch: 200 MB without CUDA, 3 GB with 1>&2
echo it. Then the model SmolLM2-135M-Instruct, 90 to 270 MB, into your cache. 1>&2
if not exist .venv\Scripts\python.exe %PYTHON% -m venv .venv 1>&2 || exit /b 1
.venv\Scripts\python -m pip --disable-pip-version-check install %EXTRA% -c constraints.txt -e . <nul 1>&2 || exit /b 1
type nul >.venv\ready

:model
.venv\Scripts\inhouse pull smollm2 <nul 1>&2 || exit /b 1
.venv\Scripts\inhouse chat %*
exit /b %errorlevel%

:nopython
echo Inhouse needs Python 3.11 or newer, and %PYTHON% is not: set PYTHON to one that is. 1>&2
exit /b 1
