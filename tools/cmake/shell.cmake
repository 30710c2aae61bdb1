# SPDX-License-Identifier: Apache-2.0
# Run after the command is built: writes its man page and completion scripts into FOLDER, in the layout of <prefix>/share.
function(write_output file)
  get_filename_component(folder "${FOLDER}/${file}" DIRECTORY)
  file(MAKE_DIRECTORY "${folder}")
  execute_process(COMMAND "${MHA}" ${ARGN} OUTPUT_FILE "${FOLDER}/${file}" RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${MHA} ${ARGN}: status ${status}")
  endif()
endfunction()

write_output(man/man1/mha.1 man)
write_output(bash-completion/completions/mha completion bash)
write_output(zsh/site-functions/_mha completion zsh)
write_output(fish/vendor_completions.d/mha.fish completion fish)
